"""File < environment < flags, errors that name the nearest key, and an init file that reads back."""

from pathlib import Path

import pytest

from kidcore.config.config import RENAMED, Config
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
        ("MASK.RATIO", "mask.ratio"),
        ("temperature", "generate.temperature or predict.temperature or rollout.temperature"),
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


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("mask.ratio", True, "mask.ratio = True: input should not be true or false"),
        ("mask.views", "true", "mask.views = True: input should not be true or false"),
        ("train.learning_rate", "fast", "input should be 'auto' or input should be a valid number"),
        ("train", "kid", "train is a section, not a setting"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_all_that_may_stand_there(name: str, value: object, says: str) -> None:
    with pytest.raises(KidpipeError) as caught:
        load_config(None, {name: value}, {})
    assert says in caught.value.what
    assert load_config(None, {"ingest.chat": True, "mask.views": "2", "eval.exact_match": "false"}, {}).config.ingest.chat


def test_an_environment_name_with_one_underscore_is_not_passed_over() -> None:
    with pytest.raises(KidpipeError, match="KIDPIPE_SCORE_TOP_K names no setting") as caught:
        load_config(None, {}, {"KIDPIPE_SCORE_TOP_K": "3"})
    assert caught.value.fix == "two underscores: KIDPIPE_SCORE__TOP_K=3"
    assert load_config(None, {}, {"KIDPIPE_OF_MY_OWN": "3"}).origins == {}


def test_bad_toml_and_missing_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="no such configuration file"):
        load_config(tmp_path / "none.toml", {}, {})
    (tmp_path / "bad.toml").write_text("[mask\n")
    with pytest.raises(KidpipeError, match=r"not valid TOML.*line 1"):
        load_config(tmp_path / "bad.toml", {}, {})
    (tmp_path / "bad.toml").write_text("[train]\nmethod = kid\n")
    with pytest.raises(KidpipeError, match="not valid TOML") as caught:
        load_config(tmp_path / "bad.toml", {}, {})
    assert caught.value.where.endswith("bad.toml, line 2: method = kid")
    assert "texts stand in quotes" in caught.value.fix


def test_the_init_file_reads_back_as_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("kidpipe.toml")
    file.write_text(template({}))
    assert load_config(file, {}, {}).config == Config()
    file.write_text(template({"teacher.model": 'a "b" \\c', "mask.ratio": 0.35}))
    assert load_config(file, {}, {}).config.teacher.model == 'a "b" \\c'
    assert load_config(file, {}, {}).config.mask.ratio == 0.35


@pytest.mark.parametrize(
    "system", ["", "two\nlines", 'a "quote", a \\ and a \t', "\0\x1f\x7f", "# no comment", "'''", "Łódź 数据 \U0001f642"]
)
def test_any_text_and_table_given_to_the_init_file_reads_back(tmp_path: Path, system: str) -> None:
    arguments = {"enable_thinking": False, "with space": system, "level": 3, "share": 0.5}
    file = tmp_path / "kidpipe.toml"
    flags = {"ingest.system": system, "ingest.chat": True, "ingest.chat_arguments": arguments, "train.report_to": ["wandb"]}
    file.write_text(template(flags), encoding="utf-8")
    config = load_config(file, {}, {}).config
    assert (config.ingest.chat_arguments, config.train.report_to) == (arguments, ("wandb",))
    # A text that is a TOML value itself is taken as one where it comes by flag.
    assert config.ingest.system == system


@pytest.mark.parametrize("text", ["1234567", "12e4567", "0012", "true", "1979-05-27", "inf", "1_000", "v1.0", "[1]"])
def test_a_text_setting_takes_what_is_written(text: str) -> None:
    assert load_config(None, {"teacher.revision": text}, {}).config.teacher.revision == text
    assert load_config(None, {}, {"KIDPIPE_TEACHER__REVISION": text}).config.teacher.revision == text
    quoted = load_config(None, {"teacher.revision": f'"{text}"'}, {}).config
    assert quoted.teacher.revision == text


@pytest.mark.parametrize("text", ["1234567", "12e4567", "1.50"])
def test_a_number_in_the_file_stays_the_text_that_it_was(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kidpipe.toml"
    file.write_text(f"[teacher]\nrevision = {text}\n[train]\nlearning_rate = 1.50e-4\n")
    config = load_config(file, {}, {}).config
    assert config.teacher.revision == text
    assert type(config.train.learning_rate) is float


@pytest.mark.parametrize(("old", "new"), sorted(RENAMED.items()))
def test_old_names_are_read_and_the_new_one_is_said(old: str, new: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    section, _, field = old.partition(".")
    file = tmp_path / "kidpipe.toml"
    file.write_text(f"[{section}]\n{field} = 65\n")
    variable = f"KIDPIPE_{section}__{field}".upper()
    for flags, environ, path in (({old: "65"}, {}, None), ({}, {variable: "65"}, None), ({}, {}, file)):
        caplog.clear()
        loaded = load_config(path, flags, environ)
        assert getattr(getattr(loaded.config, new.partition(".")[0]), new.partition(".")[2]) == 65
        assert [record.message.partition(" (")[0] for record in caplog.records] == [f"{old} is called {new} now"]
    # The order of sources holds whatever a setting is called in each.
    assert load_config(file, {new: "70"}, {variable: "66"}).config.sandbox.model_dump()[field] == 70
    with pytest.raises(KidpipeError, match=f"{new} is given under its old name too"):
        load_config(None, {old: "65", new: "70"}, {})


def test_the_file_is_found_upwards_and_its_paths_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "models" / "student").mkdir(parents=True)
    (tmp_path / "kidpipe.toml").write_text(
        '[data]\npath = "spider"\n[train]\nstudent = "models/student"\n[teacher]\nmodel = "Qwen/Qwen2.5"\n'
        '[predict]\nstudent = "./not-there"\n'
    )
    monkeypatch.chdir(below)
    config = load_config(None, {"data.dev": "dev.json"}, {}).config
    assert config.data.path == str(tmp_path / "spider")
    assert config.store.path == str(tmp_path / "artifacts")
    assert config.train.student == str(tmp_path / "models" / "student")
    assert config.predict.student == str(tmp_path / "not-there")
    assert (config.teacher.model, config.data.dev) == ("Qwen/Qwen2.5", "dev.json")
    given = load_config(None, {"data.path": "here"}, {"KIDPIPE_STORE__PATH": "there"}).config
    assert (given.data.path, given.store.path) == ("here", "there")
    (tmp_path / "a" / "kidpipe.toml").write_text('[data]\npath = "~/bird"\n[store]\npath = "/elsewhere"\n')
    nearer = load_config(None, {}, {}).config
    assert (nearer.data.path, nearer.store.path, nearer.train.student) == (str(Path.home() / "bird"), "/elsewhere", "")
    assert load_config(None, {}, {}, use_file=False).config == Config()


def test_in_the_files_own_folder_paths_stay_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kidpipe.toml").write_text('[data]\npath = "spider"\n')
    monkeypatch.chdir(tmp_path)
    loaded = load_config(None, {}, {})
    assert (loaded.config.data.path, loaded.config.store.path) == ("spider", "artifacts")
    assert (loaded.origin("data.path"), loaded.origin("store.path")) == ("kidpipe.toml", "default")


def test_a_file_given_by_name_moves_its_own_paths_and_no_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "one.toml").write_text('[data]\npath = "../spider"\n')
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("settings/one.toml"), {}, {}).config
    assert (config.data.path, config.store.path) == ("settings/../spider", "artifacts")


def test_a_tilde_is_the_home_folder_in_everything_that_names_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = {"store.path": "~/kid", "data.path": "~/spider", "teacher.model": "~/models/a", "ingest.system": "~/not a path"}
    config = load_config(None, names, {}, use_file=False).config
    assert (config.store.path, config.data.path) == (str(tmp_path / "kid"), str(tmp_path / "spider"))
    assert (config.teacher.model, config.ingest.system) == (str(tmp_path / "models/a"), "~/not a path")
    with pytest.raises(KidpipeError, match="no such home folder"):
        load_config(None, {"data.path": "~nobody-of-this-name/x"}, {}, use_file=False)
