"""Which model a setting names, which are done without, and what is said where one is missing. No model is loaded."""

from pathlib import Path
from typing import Any

import pytest

from kidcore.config.config import Config
from kidcore.config.config_load import load_config
from kidcore.config.digests import FileDigests
from kidcore.errors import KidpipeError
from kidcore.models.sources import UNBOUNDED, read_source
from kidcore.store.manifest import Facts, Manifest, StageRecord, TeacherRecord, write_manifest
from kidcore.store.model_names import remember_model
from kidcore.store.store import Store
from pipeline.named_models import (
    find_model,
    find_predictor,
    find_start,
    find_teacher,
    recorded_teacher,
    tokenizer_of_served,
    warn_of_short_students,
)

NONE = FileDigests(None)
URL = "http://127.0.0.1:9/v1"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder with nothing in it, where a model was meant to be."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def config(tmp_path: Path, **flags: Any) -> Config:
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return load_config(None, {"store.path": str(tmp_path / "artifacts")} | named, {}, use_file=False).config


def built_by(tmp_path: Path, identity: str, *names: str, **settings: dict[str, Any]) -> None:
    """As a build leaves its store whose teacher had this identity and these names; `settings` are those of stages."""
    store = Store(tmp_path / "artifacts")
    facts = Facts(0, 1, "t", 9, teacher=TeacherRecord(identity, 500) if identity else None)
    write_manifest(store, Manifest.of(facts, {name: StageRecord(1, x, 0) for name, x in settings.items()}, {}, ()))
    for name in names:
        remember_model(store, identity, name)


def test_a_teacher_that_is_needed_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="no teacher is named") as caught:
        find_teacher(config(tmp_path), True, NONE)
    assert caught.value.where == "teacher.model"
    assert find_teacher(config(tmp_path), False, NONE) is None


def test_a_teacher_that_is_named_is_looked_for_needed_or_not(tmp_path: Path, empty: Path) -> None:
    for is_needed in (True, False):
        with pytest.raises(KidpipeError, match=r"no config\.json"):
            find_teacher(config(tmp_path, teacher__model=str(empty)), is_needed, NONE)


def test_the_latest_builds_teacher_is_known_where_none_or_that_one_is_named(tmp_path: Path) -> None:
    assert recorded_teacher(config(tmp_path)) is None
    built_by(tmp_path, "local:1", "teacher", "old/teacher")
    for name in ("", "teacher", "old/teacher"):
        found = recorded_teacher(config(tmp_path, teacher__model=name))
        assert found is not None
        assert (found.identity, found.name, found.vocab_size, found.max_length) == ("local:1", name, 500, UNBOUNDED)
    assert recorded_teacher(config(tmp_path, teacher__model="another")) is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"gold_score": {}, "predict": {}, "ingest": {}}, (0, 1, UNBOUNDED)),
        ({"gold_score": {"answer.end": 0}}, (-1, 1, UNBOUNDED)),
        ({"predict": {"answer.end": 0}}, (0, 1, UNBOUNDED)),  # a student's, who expects another end
        ({"predict": {"mask_token.id": 1}}, (0, -1, UNBOUNDED)),
        ({"ingest": {"prompt.max_length": "9"}}, (0, 1, 9)),
    ],
)
def test_what_a_recorded_teachers_configuration_said_is_known_by_what_was_in_keys_beside_it(
    tmp_path: Path, settings: dict[str, dict[str, Any]], expected: tuple[int, int, int]
) -> None:
    built_by(tmp_path, "local:1", **settings)
    found = recorded_teacher(config(tmp_path))
    assert found is not None
    assert (found.eos_id, found.pad_id, found.max_length) == expected


def test_a_student_that_takes_less_than_ingest_lets_through_is_named_before_the_teacher_works(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = read_source(tiny_model)
    trained = config(tmp_path, train__student=str(tiny_model))
    warn_of_short_students(trained, None, 512)
    warn_of_short_students(config(tmp_path, train__student="some/student"), None, 513)
    assert caplog.messages == []
    warn_of_short_students(trained, start, 513)
    warn_of_short_students(config(tmp_path), start, 513)
    assert len(caplog.messages) == 2
    assert all(f"{tiny_model} takes 512 tokens, and ingest lets up to 513 through" in text for text in caplog.messages)


def test_a_build_without_a_teacher_records_none(tmp_path: Path) -> None:
    built_by(tmp_path, "")
    assert recorded_teacher(config(tmp_path)) is None


def test_a_folder_that_went_away_is_not_looked_for_on_the_hub_where_it_is_not_needed(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    built_by(tmp_path, "local:1", gone)
    assert find_teacher(config(tmp_path, teacher__model=gone), False, NONE) is None
    with pytest.raises(KidpipeError, match="model folder not found"):
        find_teacher(config(tmp_path, teacher__model=gone), True, NONE)


def test_servers_are_not_asked_for_what_is_known(tmp_path: Path) -> None:
    built_by(tmp_path, "served:m@1", URL)
    assert find_teacher(config(tmp_path, teacher__model=URL, teacher__tokenizer="x"), False, NONE) is None


def test_a_tokenizer_of_its_own_is_for_teachers_behind_a_url(tmp_path: Path, empty: Path) -> None:
    local = config(tmp_path, teacher__model=str(empty), teacher__tokenizer="x")
    with pytest.raises(KidpipeError, match="brings its own tokenizer"):
        find_teacher(local, True, NONE)
    assert tokenizer_of_served(local, NONE) is None
    assert tokenizer_of_served(config(tmp_path, teacher__model=URL), NONE) is None
    source = tokenizer_of_served(config(tmp_path, teacher__model=URL, teacher__tokenizer=str(empty)), NONE)
    assert source is not None
    assert (source.path, source.max_length, source.served) == (empty, UNBOUNDED, None)
    with pytest.raises(KidpipeError, match="tokenizer folder not found"):
        tokenizer_of_served(config(tmp_path, teacher__model=URL, teacher__tokenizer=str(tmp_path / "gone")), NONE)


@pytest.mark.parametrize(
    ("flags", "setting"),
    [
        ({"predict__predictor": "student"}, "predict.student"),
        ({"predict__fill": "verify"}, "train.student"),
    ],
)
def test_a_student_that_fills_has_to_be_named_where_it_is_needed(tmp_path: Path, flags: dict[str, str], setting: str) -> None:
    with pytest.raises(KidpipeError, match="no checkpoint is named") as caught:
        find_predictor(config(tmp_path, **flags), True, NONE)
    assert setting in caught.value.fix
    assert find_predictor(config(tmp_path, **flags), False, NONE) is None


def test_which_setting_names_the_student_that_fills(tmp_path: Path) -> None:
    both = {"predict__student": "a", "train__student": "b"}
    assert config(tmp_path, **both).student_that_fills == ("predict.student", "a")
    assert config(tmp_path, train__student="b").student_that_fills == ("predict.student", "")
    assert config(tmp_path, train__student="b", predict__fill="verify").student_that_fills == ("train.student", "b")
    assert config(tmp_path, **both, predict__fill="verify").student_that_fills == ("predict.student", "a")


def test_a_student_that_is_broken_is_an_error_only_where_it_is_needed(tmp_path: Path, empty: Path) -> None:
    filling = config(tmp_path, predict__predictor="student", predict__student=str(empty))
    with pytest.raises(KidpipeError, match=r"no config\.json") as caught:
        find_predictor(filling, True, NONE)
    assert caught.value.where == f"predict.student = {str(empty)!r}"
    assert find_predictor(filling, False, NONE) is None


@pytest.mark.parametrize("name", ["rollout__model", "train__student"])
def test_the_start_is_the_stages_own_or_the_runs(tmp_path: Path, empty: Path, name: str) -> None:
    named = config(tmp_path, **{name: str(empty)})
    with pytest.raises(KidpipeError, match=r"no config\.json") as caught:
        find_start(named, True, NONE)
    assert caught.value.where.startswith(name.replace("__", "."))
    assert find_start(named, False, NONE) is None


def test_the_stages_own_start_comes_first(tmp_path: Path, empty: Path) -> None:
    both = config(tmp_path, rollout__model=str(empty), train__student=str(tmp_path))
    with pytest.raises(KidpipeError) as caught:
        find_start(both, True, NONE)
    assert caught.value.where.startswith("rollout.model")


def test_a_start_that_nobody_named_is_said_and_a_hub_name_is_not_downloaded_to_be_listed(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="no student is named whose answers"):
        find_start(config(tmp_path), True, NONE)
    assert find_start(config(tmp_path), False, NONE) is None
    assert find_start(config(tmp_path, train__student="Qwen/Qwen2.5-Coder-0.5B"), False, NONE) is None


def test_an_error_names_the_setting(tmp_path: Path) -> None:
    assert find_model("", "train.student", NONE) is None
    with pytest.raises(KidpipeError, match="model folder not found") as caught:
        find_model(str(tmp_path / "gone"), "train.student", NONE)
    assert caught.value.where == f"train.student = {str(tmp_path / 'gone')!r}"
    assert caught.value.__cause__ is None
