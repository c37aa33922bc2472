"""File < environment < flags, errors that name the nearest key, and an init file that reads back."""

from pathlib import Path

import pytest

from kidcore.config.config import Config
from kidcore.config.config_load import load_config, template
from kidcore.errors import KidpipeError


def test_flags_beat_the_environment_and_it_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "kidpipe.toml"
    file.write_text("[mask]\nratio = 0.1\nseed = 1\nviews = 3\n")
    loaded = load_config(
        file, {"mask.ratio": "0.4"}, {"KIDPIPE_MASK__RATIO": "0.3", "KIDPIPE_MASK__SEED": "9", "KIDPIPE_OTHER": "x"}
    )
    assert (loaded.config.mask.ratio, loaded.config.mask.seed, loaded.config.mask.views) == (0.4, 9, 3)
    assert loaded.origin("mask.ratio") == "flag"
    assert loaded.origin("mask.seed") == "environment KIDPIPE_MASK__SEED"
    assert loaded.origin("mask.views") == str(file)
    assert loaded.origin("mask.strategy") == "default"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("mask.ration", "mask.ratio"),
        ("maks.ratio", "mask.ratio"),
        ("train.fill", "predict.fill"),
        ("temperature", "predict.temperature"),
    ],
)
def test_unknown_keys_name_the_nearest_real_one(name: str, suggestion: str) -> None:
    with pytest.raises(KidpipeError, match=f"did you mean {suggestion}"):
        load_config(None, {name: "1"}, {})


def test_unknown_keys_in_the_file_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "kidpipe.toml"
    file.write_text("[mask]\nstrategie = 'hard'\n")
    with pytest.raises(KidpipeError) as caught:
        load_config(file, {}, {})
    assert caught.value.where == str(file)
    assert "mask.strategy" in caught.value.fix


@pytest.mark.parametrize(("value", "part"), [("2", "less than or equal to 1"), ("'x'", "valid number"), ("0", "greater than 0")])
def test_values_out_of_range_name_the_setting(value: str, part: str) -> None:
    with pytest.raises(KidpipeError, match=part) as caught:
        load_config(None, {"mask.ratio": value}, {})
    assert caught.value.what.startswith("mask.ratio = ")


def test_bad_toml_and_missing_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="no such configuration file"):
        load_config(tmp_path / "none.toml", {}, {})
    (tmp_path / "bad.toml").write_text("[mask\n")
    with pytest.raises(KidpipeError, match=r"not valid TOML.*line 1"):
        load_config(tmp_path / "bad.toml", {}, {})


def test_the_init_file_reads_back_as_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "kidpipe.toml"
    file.write_text(template({}))
    assert load_config(file, {}, {}).config == Config()
    file.write_text(template({"teacher.model": 'a "b" \\c', "mask.ratio": 0.35}))
    assert load_config(file, {}, {}).config.teacher.model == 'a "b" \\c'
    assert load_config(file, {}, {}).config.mask.ratio == 0.35
