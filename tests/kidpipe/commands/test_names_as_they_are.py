"""Names, settings and labels with brackets and colons in them: every command shows them as people wrote them."""

import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.kidpipe.commands.running import Cli, Done

EUROPE, AMERICA = "sales [eu]", "sales [us]"
LABELS = ("[/hard]", "hard[er]", ":smile:", "")


@pytest.fixture
def folder(cli: Cli, tiny_model: Path, tmp_path: Path) -> Path:
    """A project in a folder, and on databases and a model, whose names would all be markup or emoji to rich."""
    folder = tmp_path / "mark [x] [&] :cat:"
    shutil.copytree(tiny_model, folder / "m[1]")
    for db_id in (EUROPE, AMERICA):
        path = folder / "data" / "database" / db_id / f"{db_id}.sqlite"
        path.parent.mkdir(parents=True)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE city (name TEXT, people INTEGER)")
            connection.executemany("INSERT INTO city VALUES (?, ?)", [("Rome", 10), ("Oslo", 20), ("Bonn", 30)])
            connection.commit()
    for split, count in (("train", 12), ("dev", 4)):
        rows = [
            {
                "db_id": (EUROPE, AMERICA)[number % 2],
                "question": f"[bold]Which {number}[/]?",
                "query": f"SELECT name AS [name] FROM city WHERE people > {number}",
                "difficulty": LABELS[number % 4],
            }
            for number in range(count)
        ]
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli.monkeypatch.chdir(folder)
    cli.settings.update(
        {
            "data.path": str(folder / "data"),
            "data.layout": "jsonl",
            "store.path": str(folder / "artifacts"),
            "teacher.model": str(folder / "m[1]"),
            "train.student": str(folder / "m[1]"),
            "train.max_steps": 1,
            "train.batch_size": 4,
            "sandbox.workers": 1,
            "eval.max_new_tokens": 4,
        }
    )
    return folder


def predictions(folder: Path, name: str, sqls: Sequence[str]) -> None:
    rows = [{"id": number, "prediction": sql} for number, sql in enumerate(sqls)]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def assert_shows(done: Done, *parts: str) -> None:
    assert done.code == 0, done.err
    for part in parts:
        assert part in done.out, done.out


@pytest.mark.usefixtures("folder")
def test_settings_are_shown_as_they_are(cli: Cli) -> None:
    said = "Answer in SQL. [/INST] [eu] :smile:"
    assert_shows(cli("config", ingest__system=said), f" {said} ")


def test_what_is_judged_is_called_as_it_is(cli: Cli, folder: Path) -> None:
    gold = "SELECT name FROM city"
    predictions(folder, "p[a].jsonl", [f"{gold} -- [/b]", "SELECT [name] FROM [city]", gold, "SELECT nothing[0]"])
    predictions(folder, "q.jsonl", [gold, gold, "SELECT 1 AS [red]", gold])
    judged = cli("eval", "--predictions", "p[a].jsonl")
    assert_shows(judged, "p[a].jsonl on 4 questions", EUROPE, AMERICA, "hard[er]", ":smile:", str(folder / "artifacts" / "eval"))
    assert [line.split()[1] for line in judged.out.splitlines() if "[/hard]" in line] == ["[/hard]"]
    assert_shows(cli("eval", "--predictions", "q.jsonl", "--name", "q[b] :dog:"))
    compared = cli("eval-compare", "q[b] :dog:", "p[a]", "--rows", "9")
    assert_shows(compared, "q[b] :dog: better", "p[a] better", "asked   [bold]Which 2[/]?", "SELECT 1 AS [red]", f"({EUROPE})")
    assert "\\" not in compared.out
    assert_shows(cli("fuzz-suite", "--out", "s[1]", "--variants", "1"), EUROPE, AMERICA, "--suite s[1]")


def test_what_is_built_and_trained_is_called_as_it_is(cli: Cli, folder: Path) -> None:
    """The commands of a project's life, each with names of its own to show."""
    assert_shows(cli("plan", "--why"), "stale")
    assert_shows(cli("build-imperfect"), "next ", "[1]")
    assert_shows(cli("status"), str(folder / "data"), str(folder / "m[1]"))
    assert_shows(cli("inspect", "train:0"), f"database {EUROPE},", "[bold]Which 0[/]?", "AS [name]")
    answered = cli("query", "SELECT db_id AS \"[bold] :cat:\", '[/x]' FROM ingest LIMIT 2")
    assert_shows(answered, "[bold] :cat:", "[/x]", EUROPE, AMERICA)
    shard = next((folder / "artifacts" / "ingest").glob("*.parquet"))
    assert_shows(cli("inspect", "--shard", str(shard)), f"file        {shard}")
    trained = cli("train", "--name", "r[x] :dog:")
    assert_shows(trained, f"student     {folder / 'artifacts' / 'runs' / 'r[x] :dog:' / 'best'}")
    assert_shows(cli("status"), "run         r[x] :dog:  ")
    assert_shows(cli("report", "--out", "page [a].html"), "page [a].html (")
    assert_shows(cli("gc"), "could go")
    database = folder / "data" / "database" / EUROPE / f"{EUROPE}.sqlite"
    assert cli("ask", "Who [/b]?", "r[x] :dog:", "--db", str(database), "--run").code == 0
    assert_shows(cli("prompt", "Who [/b]?", "r[x] :dog:", "--db", str(database)), "Who [/b]?")
    assert_shows(cli("eval", "r[x] :dog:"), "r[x] :dog:/best on 4 questions", EUROPE)
