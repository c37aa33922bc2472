"""Every command as a person meets it before it works: its help, its examples, its options, and its first mistake."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kidpipe.cli import app
from tests.kidpipe.commands.running import Cli

GROUP: Any = typer.main.get_command(app)
COMMANDS = dict(GROUP.commands)
# What a command is given so that it gets as far as its settings.
GIVEN: dict[str, tuple[str, ...]] = {
    "inspect": ("train:0",),
    "query": ("select 1",),
    "push": ("ada/concerts",),
    "eval-compare": ("a", "b"),
    "fuzz-suite": ("--out", "suite"),
    "ask": ("q", "--db", "nothing.sqlite"),
    "prompt": ("q", "--db", "nothing.sqlite"),
}
CONFIGURED = sorted(COMMANDS.keys() - {"init", "demo"})


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """The command line in an empty folder, without any setting."""
    monkeypatch.chdir(tmp_path)
    return Cli(monkeypatch, capsys, {})


def examples() -> Iterator[tuple[str, str]]:
    for name, command in COMMANDS.items():
        for text in re.findall(r"Example: (kidpipe .*)", command.help or ""):
            yield name, text


def test_the_commands_are_those_that_there_are() -> None:
    assert COMMANDS.keys() >= {
        "init",
        "demo",
        "build-imperfect",
        "train",
        "teacher",
        "eval",
        "compare",
        "plan",
        "status",
        "gc",
        "push",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for_and_json_is_one_of_them(name: str) -> None:
    options = [parameter for parameter in COMMANDS[name].params if parameter.param_type_name == "option"]
    assert all(option.help for option in options)
    assert "json" in {option.name for option in options}
    assert (COMMANDS[name].help or "").strip()


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_the_terminal_and_shows_an_example(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = CliRunner().invoke(app, [name, "--help"], terminal_width=columns)
    assert shown.exit_code == 0
    assert "Example: kidpipe" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= columns
    assert "\x1b" not in shown.stdout


@pytest.mark.parametrize(("name", "text"), list(examples()))
def test_an_example_is_a_command_that_would_be_taken(name: str, text: str) -> None:
    words = shlex.split(text)[1:]
    assert words[0] == name
    with COMMANDS[name].make_context(name, words[1:]) as context:
        assert context.params


@pytest.mark.parametrize("name", CONFIGURED)
def test_a_mistyped_setting_is_an_error_of_three_lines_before_anything_is_done(cli: Cli, name: str, tmp_path: Path) -> None:
    done = cli(name, *GIVEN.get(name, ()), "--json", "--set", "mask.ratoi=0.3")
    assert (done.code, done.out) == (1, "")
    first, *rest = done.err.splitlines()
    assert first.startswith("error: ")
    assert "mask.ratoi" in done.err
    assert "mask.ratio" in done.err, "the nearest real name is said"
    assert all(line.startswith("  ") for line in rest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", ["mask.ratio", "=0.3", "mask.ratio=many", "mask.ratio=7", "mask=0.3"])
def test_a_setting_that_cannot_be_is_refused_with_how_to_write_it(cli: Cli, setting: str) -> None:
    done = cli("config", "--set", setting)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert "mask" in done.err or "section.field" in done.err


def test_the_last_of_two_values_and_the_option_of_a_setting_win(cli: Cli) -> None:
    words = ("config", "--json", "--set", "mask.ratio=0.1", "--set", " mask.ratio = 0.4 ")
    shown = json.loads(cli(*words).out)
    assert shown["mask.ratio"] == {"value": 0.4, "kind": "identity", "from": "flag"}
    assert shown["mask.views"]["from"] == "default"


@pytest.mark.parametrize(
    ("words", "said", "fix"),
    [
        (("pin",), "nothing has been built here", "kidpipe build-imperfect"),
        (("query", "select 1"), "nothing has been built here", "kidpipe build-imperfect"),
        (("inspect", "train:0"), "nothing has been built here", "kidpipe build-imperfect"),
        (("report", "build"), "nothing has been built here", "kidpipe build-imperfect"),
        (("report", "compare"), "there is no comparison here", "kidpipe compare"),
        (("train",), "no student is named", "--student MODEL"),
        (("compare",), "no student is named", "--student MODEL"),
        (("teacher",), "no teacher is named", "--teacher MODEL"),
        (("eval-compare", "a", "b"), "there is no evaluation a", "kidpipe eval"),
        (("eval", "a", "b"), "one model at a time", "kidpipe eval compare A B"),
        (("eval", "--split", "test"), "there is no split test", "--split dev"),
        (("eval", "--temperature", "1"), "no effect on greedy decoding", "--samples 8"),
        (("ask", "q", "--db", "none.sqlite"), "database missing", "--db FILE"),
        (("query", "select 1", "--out", "rows.xlsx"), "no such kind of file: rows.xlsx", ".csv or .parquet"),
        (("compare", "--checkpoint", "middle"), "no such checkpoint: middle", "best or last"),
        (("compare", "--methods", "kid,,sft"), "an empty place in the list", "a,b,c"),
        (("push", "concerts"), "not a repository's name: concerts", "OWNER/NAME"),
        (("report", "everything"), "there is no report everything", "one of all, build"),
        (("init", "--questions", "q.csv"), "no such file: q.csv", "name a csv, tsv, json, jsonl or parquet file"),
        (("init", "--database", "q.sqlite"), "--questions is missing", "--questions q.csv --database"),
        (("init", "--preset", "tower"), "there is no preset tower", "laptop"),
    ],
)
def test_in_an_empty_folder_each_command_says_what_comes_first(cli: Cli, words: tuple[str, ...], said: str, fix: str) -> None:
    done = cli(*words)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert said in done.err
    assert fix in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "words",
    [("trian",), ("train", "--studnet", "x"), ("inspect",), ("train", "--name"), ("fuzz-suite", "--out", "x", "--variants", "0")],
)
def test_what_is_no_command_line_is_told_with_code_2(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, list(words))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Error: " in done.stderr
