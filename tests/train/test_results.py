"""What a run leaves in its folder: its result, its log and its identity, written and read back by a later start."""

import json
import math
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.locks import hold
from kidcore.method.knowledge import GoldKnowledge
from kidcore.method.overlap import Overlap
from tests.train.small import save_small_student
from train.claim import claimed
from train.data.dataset import Source
from train.identity import claim_folder, run_identity
from train.results import TrainResult, read_result, start_figures, write_result
from train.runlog import RunLog
from train.student.ranks import ALONE

KNOWN = GoldKnowledge(10, 12.5, 4, 2, 1.0)
SHARED = Overlap(5, 4, 20, 13, 3.5)


def result(out: Path, **changes: object) -> TrainResult:
    plain = TrainResult(20, 10, 1.25, 1.5, 2.0, 3.5, out / "best", out / "last", was_finished=False)
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{}, {"start_knowledge": KNOWN, "final_knowledge": KNOWN}, {"final_overlap": SHARED}])
def test_a_result_comes_back_as_that_of_a_finished_run(tmp_path: Path, changes: dict[str, object]) -> None:
    assert read_result(tmp_path) is None
    made = result(tmp_path, **changes)
    write_result(tmp_path, made)
    assert read_result(tmp_path) == replace(made, was_finished=True)


def test_without_a_holdout_figures_are_null_in_json_and_nan_here(tmp_path: Path) -> None:
    write_result(tmp_path, result(tmp_path, best_nll=math.nan, final_nll=math.nan, start_nll=math.inf))
    text = (tmp_path / "result.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    found = read_result(tmp_path)
    assert found is not None
    assert all(map(math.isnan, (found.best_nll, found.final_nll, found.start_nll)))
    assert found.start_knowledge is None


def test_a_result_of_an_older_kidpipe_knows_nothing_of_its_start(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"steps": 3, "best_step": 3, "best_nll": 1.0, "final_nll": 1.0, "seconds": 2.0}')
    found = read_result(tmp_path)
    assert found is not None
    assert math.isnan(found.start_nll)
    assert (found.steps, found.start_overlap) == (3, None)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"', "null", "{}", '{"steps": 3, "other": 1}', "\x00"])
def test_a_damaged_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(KidpipeError, match="not a run's result") as caught:
        read_result(tmp_path)
    assert f"rm -r {tmp_path}" in caught.value.fix


@pytest.mark.parametrize(
    "first", ["", "{", '{"step": 1}', '{"step": 0}', "[0]", '{"step": 0, "on_gold": {"tokens": "x"}}', "\x00"]
)
def test_a_log_without_a_start_says_nothing_of_it(tmp_path: Path, first: str) -> None:
    assert start_figures(tmp_path) == (None, None)
    (tmp_path / "log.jsonl").write_text(first + "\n" if first else "")
    assert start_figures(tmp_path) == (None, None)


def test_the_start_is_in_the_first_line_of_the_log(tmp_path: Path) -> None:
    with RunLog(tmp_path / "log.jsonl", 0) as log:
        log.write({"kind": "eval", "step": 0, "on_gold": KNOWN.as_json(), "overlap": SHARED.as_json()})
        log.write({"kind": "step", "step": 1})
    assert start_figures(tmp_path) == (KNOWN, SHARED)


def test_a_log_is_cut_back_to_what_its_checkpoint_knew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path, 0) as log:
        log.write({"step": 1})
        kept = log.commit()
        log.write({"step": 2, "torn": "x" * 50})
    with path.open("ab") as file:
        file.write(b'{"st')
    with RunLog(path, kept) as log:
        log.write({"step": 2, "é": 1.5})
        assert log.commit() == path.stat().st_size
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [{"step": 1}, {"step": 2, "é": 1.5}]


@pytest.mark.parametrize("left", [b"", b'{"step": 1}\n', b'{"step": 1}\n{"st'])
def test_a_log_that_lost_lines_is_not_filled_up_with_zeros(left: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(left)
    with RunLog(path, 500) as log:
        log.write({"step": 9})
    assert path.read_bytes() == left + (b"\n" if left.endswith(b"st") else b"") + b'{"step": 9}\n'


def test_other_processes_keep_no_log(tmp_path: Path) -> None:
    with RunLog(None, 0) as log:
        log.write({"step": 1})
        assert log.commit() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_more_is_a_person_s_error() -> None:
    log = RunLog(None, 0)
    with log, Path("/dev/full").open("ab", buffering=0) as full:
        log._file.close()
        log._file = full
        with pytest.raises(KidpipeError, match="the run could not be saved") as caught:
            log.write({"step": 1})
    assert "make room" in caught.value.fix


SETTINGS = TrainSettings(method="kid", learning_rate=1e-3)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ({"settings": {"method": "kid", "learning_rate": 0.1}}, "train.learning_rate 0.1 -> 0.001"),
        ({"settings": {"learning_rate": 0.001, "batch_size": 99}}, "train.batch_size 99 ->"),
        ({"settings": {"learning_rate": 0.001, "of_a_later_kidpipe": 3}}, "train.of_a_later_kidpipe 3 -> unknown"),
        ({"shards": "other"}, "what it reads of the build (digest) other -> content"),
        ({"student": "other"}, "student other -> student"),
        ({"order_version": 0}, "order of examples 0 -> 1"),
        ({"schema_version": 1}, "version of run.json 1 -> 3"),
        ({"online": {"teacher": "t", "score.top_k": 8}}, "score.top_k 8 -> default; teacher t -> default"),
    ],
)
def test_each_difference_of_a_run_is_named_with_the_way_out(tmp_path: Path, before: dict[str, object], said: str) -> None:
    identity = run_identity(SETTINGS, "content", "student")
    claim_folder(tmp_path, identity | before)
    with pytest.raises(KidpipeError) as caught:
        claim_folder(tmp_path, identity)
    assert caught.value.what.startswith("this folder holds another run: ")
    assert said in caught.value.what
    assert f"rm -r {tmp_path}" in caught.value.fix


def test_the_same_run_claims_its_folder_again_and_a_default_is_no_difference(tmp_path: Path) -> None:
    identity = run_identity(SETTINGS, "content", "student")
    claim_folder(tmp_path, identity)
    before = (tmp_path / "run.json").read_bytes()
    claim_folder(tmp_path, identity)
    assert (tmp_path / "run.json").read_bytes() == before
    explicit = identity["settings"] | {"batch_size": TrainSettings.left_out("batch_size")}
    (tmp_path / "run.json").write_text(json.dumps(identity | {"settings": explicit}))
    claim_folder(tmp_path, identity)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"'])
def test_a_damaged_identity_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(KidpipeError, match="not a run's identity") as caught:
        claim_folder(tmp_path, run_identity(SETTINGS, "content", "student"))
    assert f"rm -r {tmp_path}" in caught.value.fix


def test_a_claimed_folder_is_mended_and_nobody_else_s(tmp_path: Path) -> None:
    student, out = save_small_student(tmp_path / "student"), tmp_path / "run"
    for name in (".best.old", ".last.new", "checkpoints/.step-00000003.new"):
        (out / name).mkdir(parents=True)
    source = Source([], 1, "content")
    with claimed(out, SETTINGS, source, student, ALONE, None):
        assert (out / "best").is_dir(), "what was moved aside is back"
        assert not any(out.glob("**/.*.new"))
        with (
            pytest.raises(KidpipeError, match="another process is training in this folder"),
            hold(out / ".lock", busy="another process is training in this folder"),
        ):
            pass
    with (
        pytest.raises(KidpipeError, match="another run"),
        claimed(out, TrainSettings(method="sft"), source, student, ALONE, None),
    ):
        pass


def test_a_line_of_which_the_disk_takes_a_part_is_said_too(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunLog(tmp_path / "log.jsonl", 0) as log:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (6, before[1]))
            with pytest.raises(KidpipeError, match="the run could not be saved"):
                log.write({"step": 1})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
