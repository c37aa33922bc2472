"""`--json` of commands on a store that is there: one strict document on stdout, for people a few lines that fit."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kidpipe.commands.ask import show_prompt
from kidpipe.commands.build import build_imperfect, plan
from kidpipe.commands.gc import gc
from kidpipe.commands.inspect import inspect, query
from kidpipe.commands.session import Session, open_session, show_bytes, show_seconds
from kidpipe.commands.settings import show_config
from kidpipe.commands.store import pin, status, verify
from kidpipe.commands.train import train
from kidpipe.report.train import train_section
from tests.test_fixture_store import FIXTURE, copied_store

DATABASE, MODEL = next((FIXTURE / "data" / "database").glob("*/*.sqlite")), str(FIXTURE / "model")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return copied_store(FIXTURE, tmp_path_factory.mktemp("json"))


@pytest.fixture
def session(old: dict[str, object]) -> Session:
    return open_session(None, [], old, use_file=False)


def document(text: str) -> Any:
    """The one document that a text is; NaN and the like are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


BODIES: dict[str, Callable[[Session, bool], Any]] = {
    "status": lambda session, as_json: status(session, as_json=as_json),
    "verify": lambda session, as_json: verify(session, deep=False, as_json=as_json),
    "gc": lambda session, as_json: gc(session, delete=False, as_json=as_json),
    "pin": lambda session, as_json: pin(session, as_json=as_json),
    "inspect": lambda session, as_json: inspect(session, "train:3", 0, as_json=as_json),
    "query": lambda session, as_json: query(session, "select reason, count(*) from ingest group by 1", as_json=as_json),
    "plan": lambda session, as_json: plan(session, why=True, as_json=as_json, check=False, until="score"),
    "build-imperfect": lambda session, as_json: build_imperfect(session, until="score", as_json=as_json),
    "config": lambda session, as_json: show_config(session, as_json=as_json),
    "prompt": lambda session, as_json: show_prompt(session, "Who?", DATABASE, MODEL, evidence="", as_json=as_json),
    "train": lambda session, as_json: train(session, name="kid-04bb9b9b", as_json=as_json),
}


@pytest.mark.parametrize("name", BODIES)
def test_json_is_one_document_and_people_get_lines(session: Session, capsys: pytest.CaptureFixture[str], name: str) -> None:
    BODIES[name](session, True)
    shown = capsys.readouterr()
    assert document(shown.out) is not None
    assert shown.out.endswith(("}\n", "]\n"))
    BODIES[name](session, False)
    said = capsys.readouterr().out
    assert said.strip()
    assert not said.startswith("{")
    assert "\x1b" not in said, "no colour into a pipe"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("name", ["status", "inspect", "query", "train", "plan", "build-imperfect"])
def test_on_a_narrow_terminal_lines_fit_and_colour_is_as_asked_for(
    session: Session, monkeypatch: pytest.MonkeyPatch, name: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    BODIES[name](session, False)
    lines = terminal.getvalue().splitlines()
    assert "\x1b" not in terminal.getvalue()
    # The next command is one line however long it is: it is there to be copied.
    assert max(len(line) for line in lines if not line.startswith("next ")) <= columns


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("select 'nan'::double as n, 'inf'::double as i, 1.5 as x", [{"n": None, "i": None, "x": "1.5"}]),
        ("select 1 as a, 2 as a, 3 as a_1, 4 as a", [{"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}]),
        (
            "select [date '2020-01-02'] as d, {'x': 1.5::decimal(3, 1), 'y': [null]} as s",
            [{"d": ["2020-01-02"], "s": {"x": "1.5", "y": [None]}}],
        ),
        ("select map{1: 'é'} as m, true as t, '\\xAA'::blob as b", [{"m": {"1": "é"}, "t": True, "b": "b'\\xaa'"}]),
        ("select 1 as one where false", []),
    ],
)
def test_whatever_duckdb_gives_is_json(session: Session, capsys: pytest.CaptureFixture[str], sql: str, rows: list[Any]) -> None:
    query(session, sql, as_json=True)
    assert document(capsys.readouterr().out) == rows


def test_a_document_is_strict_and_takes_any_text(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": "日\ud800\u2028"})
    out = capsys.readouterr().out
    assert document(out) == {"a": None, "b": [None, 1.5], "c": "日\ud800\u2028"}
    assert "日" in out, "what a stream can take is written as it is"


def test_a_run_without_a_holdout_has_no_likelihood_to_tell(old: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(str(old["store.path"])) / "runs" / "sft-8265ecdb"
    result = json.loads((run / "result.json").read_text())
    before = (run / "result.json").read_bytes()
    (run / "result.json").write_text(json.dumps(result | {"best_nll": None, "final_nll": None, "start_nll": None}))
    session = open_session(None, [], old | {"train.method": "sft"}, use_file=False)
    try:
        train(session, name=run.name, as_json=True)
        found = document(capsys.readouterr().out)
        train(session, name=run.name, as_json=False)
        said = capsys.readouterr().out
    finally:
        (run / "result.json").write_bytes(before)
    assert (found["best_nll"], found["start_nll"], found["was_finished"]) == (None, None, True)
    assert "nan" not in said
    assert "sft         finished before, nothing to do\n" in said


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
@pytest.mark.parametrize("name", ["result.json", "run.json"])
def test_a_damaged_file_of_one_run_hides_no_other(
    session: Session, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    run = session.store.root / "runs" / "sft-8265ecdb"
    before = (run / name).read_bytes()
    (run / name).write_text(text)
    try:
        status(session, as_json=True)
        runs = {row["name"]: row["state"] for row in document(capsys.readouterr().out)["runs"]}
        status(session, as_json=False)
        said = capsys.readouterr().out
        query(session, "select run, is_finished from runs", as_json=True)
        shown = {row["run"]: row["is_finished"] for row in document(capsys.readouterr().out)}
        table = train_section(session.store, sorted(runs)).blocks[0].table
    finally:
        (run / name).write_bytes(before)
    is_broken = name == "result.json"
    # The fixture's runs are without weights.
    assert (runs[run.name], shown[run.name]) == (("damaged", False) if is_broken else ("unfinished", True))
    assert runs.keys() == shown.keys() == {run.name, "kid-04bb9b9b"}
    assert ("its result.json cannot be read" in said) == is_broken
    assert table is not None
    assert len(table.rows) == 2


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "?"), (0, "0 s"), (0.4, "0 s"), (89.4, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1.5 h"), (1e6, "277.8 h")],
)
def test_durations_as_people_say_them(seconds: float | None, said: str) -> None:
    assert show_seconds(seconds) == said


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "2 KiB"),
        (5 << 20, "5 MiB"),
        (3 << 29, "1.5 GiB"),
        (1 << 44, "16384.0 GiB"),
    ],
)
def test_sizes_as_people_say_them(size: int, said: str) -> None:
    assert show_bytes(size) == said


def test_a_silent_session_prints_nothing(old: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_session(None, [], old, use_file=False)
    silent = Session(opened.loaded, verbose=False, is_silent=True)
    pin(silent, as_json=False)
    status(silent, as_json=False)
    assert capsys.readouterr() == ("", "")
