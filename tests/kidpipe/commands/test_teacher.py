"""A teacher fine-tuned, judged and built with."""

import json
import sqlite3
from pathlib import Path

from tests.kidpipe.commands.running import Cli, assert_said

SMALL: dict[str, object] = {
    "train__max_steps": 2,
    "train__batch_size": 4,
    "train__holdout": 0.1,
    "eval__limit": 4,
    "eval__max_new_tokens": 8,
    "sandbox__workers": 1,
}


def test_a_teacher_is_fine_tuned_judged_and_built_with(cli: Cli, tmp_path: Path) -> None:
    base = cli.settings["teacher.model"]
    done = cli("teacher", "--json", "--name", "tuned", **SMALL)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["from"], report["seed"], report["lora_rank"]) == (base, 0, 16)
    assert report["eval"]["examples"] == 4
    run = json.loads((tmp_path / "artifacts" / "runs" / "tuned" / "run.json").read_text())
    assert (run["settings"]["method"], run["settings"]["lora_rank"]) == ("sft", 16)
    again = cli("teacher", "--name", "tuned", "--no-eval", **SMALL)
    assert "nothing to do" in again.out
    said = [line.split() for line in again.out.splitlines() if line.startswith("next ")]
    assert len(said) == 1, "training is a step of this command"
    assert said[0][:5] == ["next", "kidpipe", "build-imperfect", "--teacher", report["teacher"]]
    assert f"store.path={cli.settings['store.path']}" in said[0]
    built = cli(
        "build-imperfect", "--until", "gold_score", "--json", "--teacher", report["teacher"], teacher__model=report["teacher"]
    )
    assert built.code == 0, built.err
    assert json.loads(built.out)["teacher_on_gold"]["answers"] == 60


def test_a_teacher_has_to_be_named(cli: Cli) -> None:
    refused = cli("teacher", teacher__model="")
    assert (refused.code, "kidpipe teacher --teacher MODEL" in refused.err) == (1, True)


def test_a_url_is_no_model_to_train_or_to_ask(cli: Cli, tmp_path: Path) -> None:
    url = "http://localhost:8000"
    sqlite3.connect(tmp_path / "d.sqlite").executescript("CREATE TABLE t (a)").connection.close()
    for command in (("teacher", "--teacher", url), ("ask", "q?", url, "--db", "d.sqlite")):
        assert_said(
            cli(*command), "a model behind a URL only answers as the teacher of a build", f"where: {url}\n", "Hugging Face name"
        )
    assert_said(cli("ask", "q?", "--db", "d.sqlite"), "no run here is finished", "kidpipe train first")
