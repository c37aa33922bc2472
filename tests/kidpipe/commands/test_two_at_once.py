"""Two commands on one store at one moment: what the second of them finds, and what it leaves alone."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kidcore.locks import hold
from kidcore.models.serving import write_serving_files
from kidpipe.commands import companions
from kidpipe.commands.session import Session, open_session
from kidpipe.commands.train import _claim, prepare_run, train
from kidpipe.study.runs import LOG
from kidpipe.study.trial import CELL, RESULT
from tests.kidpipe.commands.running import Cli, assert_said
from tests.kidpipe.commands.trials import launch
from tests.test_fixture_store import FIXTURE, copied_store
from tests.train.stopping import stopped


@pytest.mark.parametrize("second", ["fkd", "sft"])
def test_of_two_that_begin_a_run_the_folder_is_the_first_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    settings = copied_store(FIXTURE, tmp_path)

    def opened(method: str) -> Session:
        return open_session(None, [], settings | {"train.method": method}, use_file=False)

    sessions = [opened("fkd"), opened(second)]
    prepared = [prepare_run(session) for session in sessions]
    out = sessions[0].store.root / "runs" / "mine"
    other = threading.Thread(target=_claim, args=(sessions[1], out, prepared[1]))

    def write_beside_another(*given: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(companions, "write_serving_files", write_serving_files)
            other.start()
            other.join(3.0)
        return write_serving_files(*given)

    with monkeypatch.context() as patch:
        patch.setattr(companions, "write_serving_files", write_beside_another)
        _claim(sessions[0], out, prepared[0])
    other.join()
    assert json.loads((out / "run.json").read_text()) == prepared[0].identity
    assert json.loads((out / "manifest.json").read_text()) == {"digest": prepared[0].manifest.digest}
    assert "| method | fkd |" in (out / "companions" / "README.md").read_text()


def test_two_comparisons_of_one_name_are_not_at_work_at_once(cli: Cli, tmp_path: Path) -> None:
    command = ("compare", "--methods", "sft", "--seeds", "0")
    with hold(tmp_path / "artifacts" / "compare" / "comparison" / ".lock"):
        assert_said(cli(*command), "another comparison goes on under this name (--name gives this one its own): process")
        assert_said(cli(*command, "--finished"), "none of these 1 runs is finished")


def test_comparisons_that_share_a_run_take_turns(tmp_path: Path) -> None:
    """Of the second one's process the first one's log is not emptied, and what is done by then is not done again."""
    folder = tmp_path / "0123"
    folder.mkdir()
    (folder / CELL).write_text(json.dumps({"run": "sft-0123"}))
    (folder / LOG).write_text("step 3 of 9\n")
    with hold(tmp_path / ".sft-0123.lock", "flock"):
        second = launch(folder, dict(os.environ))
        time.sleep(0.5)
        assert second.poll() is None
        assert (folder / LOG).read_text() == "step 3 of 9\n"
        (folder / RESULT).write_text("{}")
    assert second.wait() == 0
    assert (folder / LOG).read_text() == "step 3 of 9\n"
    (folder / RESULT).unlink()
    assert launch(folder, dict(os.environ)).wait() == 1
    assert "step 3 of 9" not in (folder / LOG).read_text(), "its turn, and its log"


def test_training_keeps_others_out_in_the_way_that_the_store_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = copied_store(FIXTURE, tmp_path) | {"train.method": "sft", "store.lock": "file"}
    session = open_session(None, [], settings, use_file=False)
    held = session.store.root / "runs" / "mine" / ".lock.held"
    seen: list[bool] = []
    with stopped(monkeypatch, lambda: seen.append(held.exists())):
        train(session, name="mine", as_json=True)
    assert seen, "it was looked at"
    assert all(seen)
    assert not held.exists()
