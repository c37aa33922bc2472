"""`kidpipe compare` and a signal: runs in training keep the step that they are in, and the next command goes on from there."""

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.kidpipe.commands.running import Cli
from tests.kidpipe.commands.test_compare_grid import SMALL
from tests.kidpipe.commands.trials import launch

# No checkpoint of its own accord before the end.
LONG = SMALL | {"train.max_steps": 300, "train.save_every": 1000, "train.eval_every": 1000}


@pytest.mark.slow
def test_interrupted_it_lets_its_runs_save_the_step_that_they_are_in(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.settings.update(LONG)
    monkeypatch.setattr("kidpipe.study.runs._launch", launch)
    command = ("compare", "--methods", "sft", "--seeds", "0,1")

    def interrupt() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if any(log.read_bytes().count(b"\n") > 2 for log in tmp_path.glob("artifacts/runs/*/log.jsonl")):
                break
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    done = cli(*command)
    thread.join()
    assert done.code == 130, done.err
    assert "stopping: runs in training end their step and save it" in done.err
    (log,) = tmp_path.glob("artifacts/runs/*/log.jsonl")
    (saved,) = tmp_path.glob("artifacts/runs/*/checkpoints/step-*")
    steps = log.read_bytes().splitlines()
    assert 0 < int(saved.name.removeprefix("step-")) == json.loads(steps[-1])["step"] < 300
    assert not list(tmp_path.glob("artifacts/compare/runs/*/result.json")), "and no other run was begun"
    (said,) = tmp_path.glob("artifacts/compare/runs/*/log.txt")
    assert "is saved: the same command continues from there" in said.read_text().splitlines()[-1]
    assert cli(*command, "--seeds", "0").code == 0
    assert log.read_bytes().startswith(b"\n".join(steps)), "it went on from there"
