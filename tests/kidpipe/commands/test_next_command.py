"""From a CSV and a SQLite file to a served answer by typing what the last command said; and what is said too early to be late."""

import csv
import json
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kidpipe.commands.next_command import after_build, after_teacher
from kidpipe.commands.session import open_session
from tests.kidpipe.commands.running import Cli, Done


def _next_of(done: Done) -> list[str]:
    """The arguments of the command that was printed last."""
    assert done.code == 0, done.err
    words = shlex.split(next(line for line in done.out.splitlines() if line.startswith("next ")))
    assert words[1] == "kidpipe"
    return words[2:]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with q.csv and shop.sqlite."""
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE sale (price INT)")
        connection.executemany("INSERT INTO sale VALUES (?)", [(n,) for n in range(9)])
    with (tmp_path / "q.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "sql"])
        writer.writerows([[f"how many are above {n}?", f"SELECT count(*) FROM sale WHERE price > {n}"] for n in range(30)])
    return tmp_path


@pytest.mark.usefixtures("own")
def test_five_commands_lead_from_a_csv_to_an_answer(cli: Cli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.settings.clear()
    for name, value in {"ENGINE__BACKEND": "transformers", "TRAIN__MAX_STEPS": "2", "TRAIN__BATCH_SIZE": "4"}.items():
        monkeypatch.setenv(f"KIDPIPE_{name}", value)
    monkeypatch.setenv("KIDPIPE_EVAL__MAX_NEW_TOKENS", "8")
    models = ["--teacher", str(tiny_model), "--student", str(tiny_model)]
    done = cli("init", "--questions", "q.csv", "--database", "shop.sqlite", "--preset", "laptop", *models)
    typed = ["init"]
    while typed[-1] != "ask":
        arguments = _next_of(done)
        done = cli(*arguments)
        typed.append(arguments[0])
    assert (done.code, typed) == (0, ["init", "build-imperfect", "train", "eval", "ask"]), done.err


def test_the_next_command_has_what_this_one_was_given(cli: Cli, own: Path, tiny_model: Path) -> None:
    """Without a settings file everything came from flags, a folder with a space included."""
    cli.settings.clear()
    store = str(own / "my store")
    assert cli("init", "--questions", "q.csv", "--database", "shop.sqlite").code == 0
    (own / "kidpipe.toml").unlink()
    flags = {"engine__backend": "transformers", "store__path": store, "data__path": "data", "data__layout": "jsonl"}
    first = cli("build-imperfect", "--teacher", str(tiny_model), **flags)
    assert first.out.splitlines()[-1].endswith("--student MODEL")
    assert f"store.path={store}" in _next_of(first)
    said = [word if word != "MODEL" else str(tiny_model) for word in _next_of(first)]
    trained = cli(*said, train__max_steps=1, train__batch_size=4, train__method="sft")
    assert trained.code == 0, trained.err
    arguments = _next_of(trained)
    assert arguments[:2] == ["eval", Path(json.loads(cli("status", "--json", store__path=store).out)["runs"][0]["name"]).name]
    assert not [word for word in arguments if word.startswith("train.")]


def test_what_is_lacking_is_named_once_and_a_new_teacher_gets_nothing_of_the_old_one(tmp_path: Path) -> None:
    flags = {"teacher.model": "", "teacher.revision": "abc", "data.path": str(tmp_path), "train.seed": 3, "mask.views": 1}
    session = open_session(None, [], flags, use_file=False)
    said = after_build(session, "ingest")
    assert (said.count("--teacher"), said.endswith(" --teacher MODEL")) == (1, True)
    assert after_teacher(session, "a b") == f"kidpipe build-imperfect --teacher 'a b' --data {tmp_path} --set mask.views=1"


@pytest.mark.parametrize("part", ["dev.json", "database"])
def test_what_would_fail_at_eval_is_said_before_the_teacher_starts(cli: Cli, world: Path, tmp_path: Path, part: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(world, data)
    if part == "database":
        rows = json.loads((data / "dev.json").read_text())
        (data / "dev.json").write_text(json.dumps([row | {"db_id": "elsewhere"} for row in rows]))
    else:
        (data / part).unlink()
    done = cli("build-imperfect", "--until", "ingest", data__path=str(data))
    assert done.code == 0, done.err
    assert "kidpipe eval will fail on this data" in done.err
    assert ("elsewhere" if part == "database" else "dev.json") in done.err
    quiet = cli("build-imperfect", "--until", "ingest")
    assert "will fail" not in quiet.err


def test_databases_that_are_nowhere_are_an_error_with_their_paths(cli: Cli, world: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(world, data)
    shutil.rmtree(data / "database")
    (data / "database").mkdir()
    done = cli("build-imperfect", data__path=str(data), engine__backend="vllm")
    assert done.code == 1
    assert "none of the" in done.err
    assert str(data / "database") in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("until", ["score", "ingest"])
def test_all_rows_set_aside_are_an_error_before_an_engine_loads(cli: Cli, tmp_path: Path, until: str) -> None:
    done = cli("build-imperfect", "--until", until, ingest__max_sql_tokens=4, teacher__dtype="float16", engine__backend="vllm")
    assert done.code == 1
    assert "all 60 examples were set aside: 60 gold SQL too long" in done.err
    assert not list((tmp_path / "artifacts" / "gold_score").glob("*"))
    again = cli("build-imperfect", "--until", until, ingest__max_sql_tokens=4)
    assert (again.code, "all 60 examples" in again.err) == (1, True), "reused shards are no way around"
    assert cli("build-imperfect", "--until", "ingest").code == 0
