"""Every command of the program, on terminals of 80 and 60 columns and into a pipe: what scripts and narrow screens are promised.

The walk takes its commands from the program itself: one that is new fails it until it is given words here.
"""

import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import typer
from huggingface_hub import constants

from kidpipe import cli
from tests.hub import TOKEN, stand_in
from tests.kidpipe.commands.trials import launch

COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
FIRST = "train:0"
WORDS: dict[str, list[str]] = {
    "init": ["made.toml", "--force"],
    "config": [],
    "plan": ["--why"],
    "build-imperfect": [],
    "status": [],
    "inspect": [FIRST],
    "query": ["select * from score"],
    "verify": ["--deep"],
    "pin": [],
    "gc": [],
    "train": ["--method", "sft", "--name", "one"],
    "teacher": ["--full", "--no-eval", "--name", "two"],
    "eval": ["one"],
    "eval-compare": ["one-first-4", "one-first-4", "--rows", "2"],
    "ask": ["How many are there?", "one", "--db", "DATABASE", "--run"],
    "prompt": ["How many are there?", "one", "--db", "DATABASE"],
    "compare": ["--methods", "sft", "--seeds", "1"],
    "report": ["build", "--out", "page.html"],
    "fuzz-suite": ["--out", "suites", "--variants", "1"],
    "push": ["ada/student", "one"],
}
NOT_RUN = {"demo": "minutes of training; it prints by the functions of the commands that it runs"}
COPIED = ("next  ", "teacher     set ")
CUT = re.compile(r"\w…")
"""A word that the width broke off."""
VERBATIM = {"prompt": "the prompt goes into pipes and comparisons as it is"}
"""Commands whose output is no text for people, so that no width holds for it."""


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def folder(world: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walk")
    sections = {
        "data": {"path": str(world), "limit": 12},
        "teacher": {"model": str(tiny_model)},
        "engine": {"backend": "transformers"},
        "mask": {"views": 1},
        "score": {"top_k": 8},
        "train": {"student": str(tiny_model), "max_steps": 1, "batch_size": 4, "holdout": 0.3},
        "eval": {"limit": 4, "max_new_tokens": 4},
        "sandbox": {"workers": 1},
    }
    text = "".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
        for name, section in sections.items()
    )
    (folder / "kidpipe.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("kidpipe.study.runs._launch", launch)
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with stand_in() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        yield monkeypatch


def run(monkeypatch: pytest.MonkeyPatch, words: list[str], columns: int | None = None, **environ: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; on a terminal so wide, or in pipes."""
    out, err = (Screen(), Screen()) if columns else (io.StringIO(), io.StringIO())
    code = 0
    with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in ({"COLUMNS": str(columns or 200), "TERM": "xterm-256color"} | environ).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["kidpipe", *words])
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def too_wide(text: str, columns: int) -> list[str]:
    """Lines that do not fit. What is to be typed next is left whole, to be copied."""
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace("\r", "\n"))
    return [line for line in seen.splitlines() if len(line) > columns and not line.startswith(COPIED)]


def test_the_walk_knows_every_command() -> None:
    assert WORDS.keys() | NOT_RUN.keys() == COMMANDS.keys()


@pytest.mark.parametrize("columns", [60, 80])
def test_help_keeps_to_the_width(surroundings: pytest.MonkeyPatch, columns: int) -> None:
    for command in COMMANDS:
        code, out, err = run(surroundings, [command, "--help"], columns, TERM="dumb")
        assert (code, err) == (0, "")
        assert "\x1b" not in out
        assert not too_wide(out, columns), command
        options = {word for parameter in COMMANDS[command].params for word in parameter.opts if word.startswith("--")}
        assert {word for word in options if word not in out.split()} == set(), "an option is cut in two"


@pytest.mark.slow
def test_every_command_is_readable_and_speaks_json(surroundings: pytest.MonkeyPatch, world: Path) -> None:
    database = str(next(iter(sorted((world / "database").glob("*/*.sqlite")))))
    wrong: list[str] = []
    for command, words in WORDS.items():
        given = [command, *(database if word == "DATABASE" else word for word in words)]
        for columns, environ in ((60, {"TERM": "dumb"}), (80, {"NO_COLOR": "1"})):
            code, out, err = run(surroundings, given, columns, **environ)
            assert code == 0, (command, err)
            escapes = re.compile("\x1b" if "TERM" in environ else r"\x1b\[(\d+;)*[349]\d")
            wrong += [f"{command}: escape codes in {text!r}" for text in (out, err) if escapes.search(text)]
            if command not in VERBATIM:
                wrong += [f"{command} at {columns}: {line}" for line in too_wide(out, columns)]
                wrong += [f"{command} at {columns}, cut: {line}" for line in out.splitlines() if CUT.search(line)]
        code, out, err = run(surroundings, [*given, "--json"])
        assert code == 0, (command, err)
        wrong += [f"{command}: escape codes in a pipe: {text!r}" for text in (out, err) if "\x1b" in text]
        try:
            json.loads(out)
        except ValueError:
            wrong.append(f"{command} --json: {out!r}")
    assert not wrong, "\n".join(wrong)
