"""What single settings take and mean, beyond their ranges."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from kidcore.config.config import PROMPT_TEMPLATES, RENAMED, Config, IngestSettings
from kidcore.config.config_load import load_config, sections, setting_names
from kidcore.config.settings import SettingKind
from kidcore.config.stage_settings import PredictSettings
from kidcore.config.train_settings import Method, TrainSettings
from kidcore.errors import KidpipeError


@pytest.mark.parametrize(
    ("given", "trackers"),
    [
        ("", ()),
        ("wandb", ("wandb",)),
        ("wandb, mlflow", ("wandb", "mlflow")),
        (" wandb ,, trackio,", ("wandb", "trackio")),
        (["tensorboard"], ("tensorboard",)),
        ('["wandb", "mlflow"]', ("wandb", "mlflow")),
    ],
)
def test_trackers_are_one_or_a_list_written_in_any_way(given: Any, trackers: tuple[str, ...]) -> None:
    assert load_config(None, {"train.report_to": given}, {}, use_file=False).config.train.report_to == trackers


def test_a_tracker_that_there_is_not_is_refused() -> None:
    with pytest.raises(KidpipeError, match=r"train\.report_to = .*excel"):
        load_config(None, {"train.report_to": "wandb,excel"}, {}, use_file=False)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("mask.ratio", [1e-9, 1, 1.0], [0, -0.1, 1.01, "nan", "much"]),
        ("mask.views", [1, 64], [0, 65, 1.5]),
        ("score.tail_mass", [0, 0.999], [1, -1e-9]),
        ("train.holdout", [0, 0.499], [0.5]),
        ("train.gold_share", ["auto", 0, 1], [-0.1, 1.1, "all"]),
        ("train.learning_rate", ["auto", 1e-5], [0, -1]),
        ("engine.workers", ["auto", 1], [0, -1, "many"]),
        ("ingest.chat", ["auto", True, False], ["always"]),
        ("eval.exact_match", [True, False, "official"], ["other"]),
        ("store.lock", ["auto", "flock", "file"], ["none"]),
        ("sandbox.workers", [0, 3], [-1]),
    ],
)
def test_the_ends_of_a_range_are_in_it_and_what_is_beyond_is_refused(name: str, good: list[Any], bad: list[Any]) -> None:
    section, _, field = name.partition(".")
    for value in good:
        config = load_config(None, {name: value}, {}, use_file=False).config
        assert getattr(getattr(config, section), field) == value
    for value in bad:
        with pytest.raises(KidpipeError, match=name) as caught:
            load_config(None, {name: value}, {}, use_file=False)
        assert (caught.value.where, caught.value.fix.startswith(f"{name} is:")) == ("flag", True)


def test_a_template_of_ones_own_is_known_by_what_it_holds_not_by_its_place() -> None:
    one, other = IngestSettings(template="a/folder"), IngestSettings(template="/other/place")
    assert one.identity() == other.identity() == {"template": "folder"}
    assert one.all_identity() == other.all_identity()
    for name in PROMPT_TEMPLATES:
        assert IngestSettings(template=name).all_identity()["template"] == name
    assert IngestSettings().identity() == {}


def test_a_learning_rate_of_before_it_was_auto_leaves_no_trace() -> None:
    assert TrainSettings(learning_rate=2e-4, warmup_steps=0).identity() == {}
    assert TrainSettings(learning_rate=1e-4, warmup_steps=0).identity() == {"learning_rate": 1e-4}


@pytest.mark.parametrize(
    ("settings", "is_students"),
    [({}, False), ({"predictor": "student"}, True), ({"fill": "verify"}, True), ({"fill": "sample"}, False)],
)
def test_who_fills_the_holes(settings: dict[str, Any], is_students: bool) -> None:
    assert PredictSettings(**settings).is_students is is_students


def test_every_old_name_leads_to_a_setting_that_there_is_and_is_none_itself() -> None:
    names = setting_names()
    assert set(RENAMED.values()) <= set(names)
    assert not set(RENAMED) & set(names)


def test_a_name_is_one_setting() -> None:
    names = setting_names()
    assert len(set(names)) == len(names)
    assert {name.partition(".")[0] for name in names} == set(sections()) == set(Config.model_fields)


def test_no_place_on_this_machine_and_no_number_of_workers_is_ever_an_identity() -> None:
    for name, section in sections().items():
        for field in section.model_fields:
            if section.kind_of(field) is SettingKind.IDENTITY:
                assert field not in ("path", "workers", "device", "backend", "timeout_s", "memory_mib"), f"{name}.{field}"


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_can_be_set_and_no_other(method: Method) -> None:
    assert TrainSettings(method=method).method == method
    with pytest.raises(ValidationError):
        TrainSettings.model_validate({"method": method.upper() + "?"})
