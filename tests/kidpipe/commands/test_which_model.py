"""What a person may call a model: nothing, a run, how its name begins, a folder, a name on the Hub."""

import os
from pathlib import Path

import pytest

from kidcore.errors import KidpipeError
from kidpipe.commands.next_command import after_build, next_command
from kidpipe.commands.session import Session, open_session
from kidpipe.commands.which_model import find_model, name_of


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return open_session(None, [], {"store.path": str(tmp_path / "store")}, use_file=False)


def finished(session: Session, *names: str) -> None:
    """Finished runs, the first the oldest."""
    for age, name in enumerate(names):
        best = session.store.root / "runs" / name / "best"
        best.mkdir(parents=True)
        os.utime(best, ns=(10**18 + age, 10**18 + age))


def test_without_a_name_it_is_the_newest_finished_run_which_is_said(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    finished(session, "kid-1", "zero", "sft-1")
    (session.store.root / "runs" / "kid-9").mkdir()
    caplog.set_level("INFO")
    for given, run in (("", "sft-1"), ("kid", "kid-1")):
        caplog.clear()
        assert find_model(session, given).endswith(f"/runs/{run}/best")
        assert caplog.messages == [f"the newest such run: {run}"]
    caplog.clear()
    find_model(session, "kid-1")
    assert not caplog.messages, "it was named in full"


def test_an_interrupted_run_is_no_finished_one(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    runs = session.store.root / "runs"
    finished(session, "kid-1", "sft-1", "kid-2")
    for name in ("kid-1", "sft-1", "kid-2"):
        (runs / name / "run.json").write_text("{}")
    (runs / "kid-1" / "result.json").write_text("{}")
    assert find_model(session, "").endswith("/runs/kid-1/best"), "the newest that is finished"
    assert find_model(session, "kid").endswith("/runs/kid-1/best")
    assert caplog.messages == ["the newest such run: kid-1"] * 2
    assert find_model(session, "sft").endswith("/runs/sft-1/best"), "the only one of its method"
    assert "run sft-1 is not finished: this is its best student so far" in caplog.text
    caplog.clear()
    assert find_model(session, "kid-2").endswith("/runs/kid-2/best"), "as it was asked for"
    assert "run kid-2 is not finished" in caplog.text


def test_a_run_comes_before_its_like_and_a_method_means_its_newest_run(session: Session) -> None:
    finished(session, "kid-1", "kid-2", "kid", "kidney-1")
    assert find_model(session, "kid").endswith("/runs/kid/best")
    finished(session, "sft-1", "sft-2")
    assert find_model(session, "sft").endswith("/runs/sft-2/best")
    assert find_model(session, "kid-1").endswith("/runs/kid-1/best")


def test_a_folder_and_an_owner_s_name_are_taken_as_they_are(session: Session, tmp_path: Path) -> None:
    assert find_model(session, str(tmp_path)) == str(tmp_path)
    assert find_model(session, "Qwen/Qwen2.5-Coder-0.5B") == "Qwen/Qwen2.5-Coder-0.5B"


def test_a_student_is_called_as_its_run_however_its_folder_is_written(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(session, "kid-1")
    (tmp_path / "link").symlink_to(session.store.root)
    monkeypatch.chdir(tmp_path / "store")
    for folder in (session.store.root, tmp_path / "link", Path("../store"), Path()):
        assert name_of(session, str(folder / "runs" / "kid-1" / "best")) == "kid-1"
    monkeypatch.chdir(tmp_path)
    reached = open_session(None, [], {"store.path": "link"}, use_file=False)
    assert name_of(reached, str(session.store.root / "runs" / "kid-1" / "best")) == "kid-1"
    assert name_of(session, "other/runs/kid-1/best") == "other-runs-kid-1-best"


def test_what_is_not_there_is_told_with_what_is(session: Session) -> None:
    with pytest.raises(KidpipeError, match="no model is named, and no run here is finished"):
        find_model(session, "")
    finished(session, "kid-1", "sft-1")
    (session.store.root / "runs" / "rkd-1").mkdir()
    with pytest.raises(KidpipeError, match="run rkd-1 is not finished"):
        find_model(session, "rkd-1")
    with pytest.raises(KidpipeError, match="there is no run or folder qwen") as caught:
        find_model(session, "qwen")
    assert "finished runs, the newest first: sft-1, kid-1; " in caught.value.fix
    assert "owner/qwen" in caught.value.fix


def test_the_next_command_repeats_what_was_given_as_a_shell_reads_it() -> None:
    given = {"data.path": "my data", "mask.ratio": "0.3", "engine.ray": "auto", "train.student": "it's", "engine.backend": "vllm"}
    session = open_session(None, [], given, use_file=False)
    assert next_command(session, "build-imperfect") == (
        "kidpipe build-imperfect --data 'my data' --set mask.ratio=0.3 --ray auto --set 'train.student=it'\"'\"'s' --backend vllm"
    )
    assert next_command(session, "eval", "kid-1") == (
        "kidpipe eval kid-1 --data 'my data' --set mask.ratio=0.3 --backend vllm"
    ), "a student and a cluster decide nothing there"
    assert next_command(session, "ask", "how many?") == "kidpipe ask 'how many?' --set mask.ratio=0.3 --backend vllm"


def test_what_nobody_has_named_stands_as_a_word_to_replace() -> None:
    session = open_session(None, [], {}, use_file=False)
    assert after_build(session, "ingest") == "kidpipe build-imperfect --teacher MODEL"
    assert after_build(session, "predict") == "kidpipe build-imperfect --teacher MODEL"
    assert after_build(session, "score") == "kidpipe train --student MODEL"
    assert after_build(session, "generate,score") == "kidpipe train --student MODEL"
    assert after_build(session, "generate") == "kidpipe train --student MODEL --method seqkd"
    named = open_session(None, [], {"train.student": "own", "train.packing": "plain"}, use_file=False)
    assert after_build(named, "score") == "kidpipe train --student own --set train.packing=plain"


def test_a_configuration_that_was_named_is_named_again(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[train]\ncompile = false\n", encoding="utf-8")
    session = open_session(tmp_path / "my.toml", ["train.gradient_checkpointing=true"], {})
    text = next_command(session, "train")
    assert text == f"kidpipe train --set train.gradient_checkpointing=true --config {tmp_path}/my.toml"
