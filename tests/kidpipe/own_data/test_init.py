"""A user's own questions and databases, in the forms that people have them."""

import csv
import gzip
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kidcore.config.config_load import load_config
from kidcore.errors import KidpipeError
from kidcore.sql.datasets import read
from kidpipe.commands.init import PRESETS, OwnData, init
from kidpipe.commands.session import open_session
from kidpipe.own_data.columns import choose_columns
from kidpipe.own_data.databases import copy_databases, find_databases
from kidpipe.own_data.rows import read_rows
from kidpipe.own_data.split import split_rows

ROWS = [
    {"Question": f'how many\nof {n}, "exactly"?', "SQL Query": f"SELECT count(*) FROM sale WHERE price > {n};"} for n in range(40)
]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A SQLite database with an ending of its own."""
    path = tmp_path / "my shop.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE sale (price INT)")
        connection.executemany("INSERT INTO sale VALUES (?)", [(n,) for n in range(9)])
    return path


def write_csv(path: Path, delimiter: str = ",", line_end: str = "\r\n") -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter, lineterminator=line_end)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def write_json(path: Path) -> Path:
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    return path


def write_lines(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\r\n" for row in ROWS), encoding="utf-8")
    return path


def write_zipped(path: Path) -> Path:
    plain = write_csv(path.with_name("plain")) if ".csv" in path.name else write_lines(path.with_name("plain"))
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def write_nested(path: Path) -> Path:
    path.write_text(json.dumps({"version": 1, "data": ROWS}), encoding="utf-8")
    return path


def write_frame(path: Path, frame: dict[str, Any]) -> Path:
    path.write_text(json.dumps(frame), encoding="utf-8")
    return path


def write_parquet(path: Path) -> Path:
    pl.DataFrame(ROWS).write_parquet(path)
    return path


FORMS: dict[str, Callable[[Path], Path]] = {
    "q.csv": write_csv,
    "q.tsv": lambda path: write_csv(path, "\t"),
    "semicolons.csv": lambda path: write_csv(path, ";"),
    "tabs.csv": lambda path: write_csv(path, "\t"),
    "commas.tsv": write_csv,
    "columns.json": lambda path: write_frame(path, {name: [row[name] for row in ROWS] for name in ROWS[0]}),
    "pandas.json": lambda path: write_frame(path, {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]}),
    "index.json": lambda path: write_frame(path, {str(n): row for n, row in enumerate(ROWS)}),
    "q.json": write_json,
    "lines.json": write_lines,
    "q.jsonl": write_lines,
    "q.parquet": write_parquet,
    "q.csv.gz": write_zipped,
    "q.jsonl.gz": write_zipped,
    "under_a_key.json": write_nested,
    "returns.csv": lambda path: write_csv(path, line_end="\r"),
}


def run(folder: Path, questions: str, database: Path, **columns: str) -> dict[str, Any]:
    """`kidpipe init` into `folder`; what it would print as JSON."""
    session = open_session(None, [], {}, use_file=False)
    printed: list[Any] = []
    session.__dict__["print_json"] = printed.append
    own = OwnData(questions, database, columns, 0.1, folder / "data")
    init(session, folder / "kidpipe.toml", {}, force=False, own=own, as_json=True)
    return dict(printed[0])


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_questions_gives_the_same_data(name: str, shop: Path, tmp_path: Path) -> None:
    questions = FORMS[name](tmp_path / name)
    said = run(tmp_path, str(questions), shop)
    assert said["columns"]["question"] == "Question"
    assert said["columns"]["sql"] == "SQL Query"
    assert said["databases"] == ("my_shop",)
    assert (said["failing"], said["train"] + said["dev"]) == (0, 40)
    assert said["dev"] >= 2
    config = load_config(tmp_path / "kidpipe.toml", {"data.path": str(tmp_path / "data")}, {}).config
    train, dev = (read(config.data, split) for split in ("train", "dev"))  # type: ignore[arg-type]
    assert {e.question for e in train.examples} | {e.question for e in dev.examples} == {row["Question"] for row in ROWS}
    assert not {e.gold_sql for e in train.examples} & {e.gold_sql for e in dev.examples}


def test_a_folder_of_databases_and_a_column_that_names_them(shop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "databases"
    (folder / "second").mkdir(parents=True)
    shop.rename(folder / "first.sqlite3")
    with duckdb.connect(str(folder / "second" / "second.duckdb")) as connection:
        connection.execute("CREATE TABLE sale AS SELECT 1 AS price")
    rows = [
        {"utterance": "q?", "gold": f"SELECT {n}", "database": name} for n in range(9) for name in ("first", "second", "third")
    ]
    questions = tmp_path / "q.jsonl"
    questions.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    said = run(tmp_path, str(questions), folder)
    assert said["databases"] == ("first", "second")
    assert said["left_out"] == {"about a database that is not there (third)": 9}
    assert (tmp_path / "data" / "databases" / "second" / "second.duckdb").is_file()


def test_a_column_names_a_database_by_its_file_or_by_its_id(shop: Path, tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "other.db").close()
    (tmp_path / "other.db").write_bytes(shop.read_bytes())
    questions = tmp_path / "q.json"
    named = ("my shop", "my shop.db", "my_shop", "other", "other.db")
    questions.write_text(json.dumps([{"question": n, "sql": "SELECT 1", "db": n} for n in named]), encoding="utf-8")
    made = run(tmp_path, str(questions), tmp_path)
    assert (made["train"] + made["dev"], made["left_out"]) == (5, {})
    lines = [json.loads(x) for x in (tmp_path / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {x["db_id"] for x in lines} <= {"my_shop", "other"}


def test_a_failed_try_leaves_nothing_that_refuses_the_next(shop: Path, tmp_path: Path) -> None:
    questions, broken = write_json(tmp_path / "q.json"), tmp_path / "broken.db"
    broken.write_bytes(shop.read_bytes()[:16] + b"x" * 5000)
    with pytest.raises(KidpipeError, match=r"40 about a database that can't be used .*not a database") as caught:
        run(tmp_path / "new", str(questions), broken)
    assert caught.value.fix == "copy the database from its source again"
    with closing(sqlite3.connect(shop, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(KidpipeError, match="cannot be copied: database is locked") as caught:
            run(tmp_path / "new", str(questions), shop)
        assert caught.value.fix == "let the program that has it open close it"
    assert run(tmp_path / "new", str(questions), shop)["failing"] == 0
    session = open_session(None, [], {}, use_file=False)
    with pytest.raises(KidpipeError, match="is a folder, and init writes a file"):
        init(session, tmp_path, {}, force=True)
    with pytest.raises(KidpipeError, match="is a file, and a data set is a folder"):
        init(session, tmp_path / "kidpipe.toml", {"data.path": str(shop)}, force=False)
    assert not (tmp_path / "kidpipe.toml").exists()


def test_rows_written_but_not_checkpointed_come_along(shop: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(shop)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.execute("INSERT INTO sale VALUES (1000)")
        writer.commit()
        copy_databases(find_databases(shop), ["my_shop"], tmp_path / "copies")
    with closing(sqlite3.connect(tmp_path / "copies" / "my_shop" / "my_shop.sqlite")) as copy:
        assert copy.execute("SELECT max(price) FROM sale").fetchone() == (1000,)


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_write_ahead_log_is_read_where_nothing_can_be_written_beside_it(shop: Path, tmp_path: Path, is_closed: bool) -> None:
    place = tmp_path / "theirs" / shop.name
    place.parent.mkdir()
    with closing(sqlite3.connect(shop)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.execute("INSERT INTO sale VALUES (1000)")
        writer.commit()
        shutil.copyfile(f"{shop}-wal", f"{place}-wal")
        shutil.copyfile(shop, place)
    if is_closed:
        shutil.copyfile(shop, place)
        Path(f"{place}-wal").unlink()
    # As in a folder of somebody else's, and for root too: SQLite's file of shared memory can't be made.
    Path(f"{place}-shm").symlink_to(tmp_path / "nowhere" / "shm")
    copy_databases(find_databases(place), ["my_shop"], tmp_path / "copies")
    with closing(sqlite3.connect(tmp_path / "copies" / "my_shop" / "my_shop.sqlite")) as copy:
        assert copy.execute("SELECT max(price) FROM sale").fetchone() == (1000,)


def test_a_copy_takes_the_place_of_the_file_that_is_copied_and_of_one_of_the_other_kind(shop: Path, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copy_databases(find_databases(shop), ["my_shop"], copies)
    copy_databases(find_databases(copies), ["my_shop"], copies)
    (copy,) = (copies / "my_shop").iterdir()
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM sale").fetchone() == (9,)
    duckdb.connect(str(tmp_path / "my shop.duckdb")).close()
    copy_databases(find_databases(tmp_path / "my shop.duckdb"), ["my_shop"], copies)
    assert [path.name for path in (copies / "my_shop").iterdir()] == ["my_shop.duckdb"]
    copy_databases(find_databases(shop), ["my_shop"], copies)
    assert [path.name for path in (copies / "my_shop").iterdir()] == ["my_shop.sqlite"]


def test_gold_that_does_not_execute_is_counted_at_once(shop: Path, tmp_path: Path) -> None:
    questions = tmp_path / "q.json"
    questions.write_text(
        json.dumps([*ROWS, {"Question": "broken?", "SQL Query": "SELECT nothing FROM nowhere"}]), encoding="utf-8"
    )
    said = run(tmp_path, str(questions), shop)
    assert said["failing"] == 1
    assert "nowhere" in said["first_failure"]


def test_what_is_no_text_is_left_out_with_a_reason(shop: Path, tmp_path: Path) -> None:
    questions = tmp_path / "q.json"
    parsed = {"question": "parsed?", "sql": {"human_readable": "SELECT 1"}}
    nan = float("nan")
    good = [{"question": str(n), "sql": f"SELECT {n}", "hint": nan} for n in range(4)]
    rows = [*good, parsed, {"question": ["a", "b"], "sql": "SELECT 1"}, {"question": nan, "sql": "SELECT 1"}]
    questions.write_text(json.dumps(rows), encoding="utf-8")
    said = run(tmp_path, str(questions), shop)
    assert said["train"] + said["dev"] == 4
    left_out = {f"with {what} that is a list or an object, not a text": 1 for what in ("SQL", "a question")} | {
        "without a question": 1
    }
    assert (said["left_out"], said["failing"]) == (left_out, 0)
    # Python's NaN is where a data frame has nothing.
    assert "nan" not in (tmp_path / "data" / "train.jsonl").read_text(encoding="utf-8").lower()


def test_mistakes_are_named_and_nothing_is_written(shop: Path, tmp_path: Path) -> None:
    good = write_json(tmp_path / "q.json")
    (tmp_path / "empty.db").touch()
    (tmp_path / "odd.json").write_text('[{"a": 1}]', encoding="utf-8")
    (tmp_path / "head.csv").write_text("question,sql\n", encoding="utf-8")
    (tmp_path / "bad.json").write_text("[{", encoding="utf-8")
    (tmp_path / "latin.csv").write_bytes("question,sql\ncafé?,SELECT 1\n".encode("latin-1"))
    (tmp_path / "wide.csv").write_bytes("question,sql\nx,SELECT 1\n".encode("utf-16"))
    (tmp_path / "packed.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    (tmp_path / "nothing").mkdir()
    mistakes: list[tuple[str, Path, dict[str, str], str]] = [
        (str(tmp_path / "missing.csv"), shop, {}, "missing.csv"),
        (str(good), tmp_path / "missing.db", {}, "missing.db"),
        (str(good), tmp_path / "empty.db", {}, "empty file"),
        (str(good), good, {}, "neither a SQLite nor a DuckDB"),
        (str(good), tmp_path / "nothing", {}, "no database in"),
        (str(tmp_path / "odd.json"), shop, {}, "no column looks like the question"),
        (str(tmp_path / "head.csv"), shop, {}, "not one row"),
        (str(tmp_path / "bad.json"), shop, {}, "malformed JSON"),
        (str(tmp_path / "latin.csv"), shop, {}, "Latin-1"),
        (str(tmp_path / "wide.csv"), shop, {}, "UTF-16"),
        (str(tmp_path / "packed.jsonl.zst"), shop, {}, "zstd"),
        (str(good), shop, {"sql": "nope"}, "no column 'nope'"),
        (str(tmp_path), shop, {}, "files in this folder"),
    ]
    for questions, database, columns, said in mistakes:
        with pytest.raises(KidpipeError, match=said):
            run(tmp_path, questions, database, **columns)
        assert not (tmp_path / "kidpipe.toml").exists()


def test_what_is_there_is_not_written_over(shop: Path, tmp_path: Path) -> None:
    questions = write_json(tmp_path / "q.json")
    run(tmp_path, str(questions), shop)
    with pytest.raises(KidpipeError, match="exists"):
        run(tmp_path, str(questions), shop)
    (tmp_path / "kidpipe.toml").unlink()
    with pytest.raises(KidpipeError, match="is there already"):
        run(tmp_path, str(questions), shop)


def test_columns_are_guessed_once_each_and_named_ones_win() -> None:
    rows = [{"text": "q", "question_id": "7", "answer": "SELECT 1", "hint": "h", "other": ""}]
    columns = choose_columns(rows, {})
    assert (columns.question, columns.sql, columns.evidence, columns.id, columns.db) == (
        "text",
        "answer",
        "hint",
        "question_id",
        "",
    )
    assert choose_columns(rows, {"question": "other"}).question == "other"
    assert choose_columns([{"a": "q", "b": "s"}], {"question": "a"}, lambda _what, names: f"{names[1]}").sql == "b"


def test_a_saved_data_set_needs_its_library_and_a_folder_with_one_file_does_not(tmp_path: Path) -> None:
    write_json(tmp_path / "train.json")
    write_json(tmp_path / "other.json")
    assert read_rows(str(tmp_path))[1].endswith("train.json")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=8)), min_size=4, max_size=40), st.floats(0.05, 0.5))
def test_a_split_keeps_sql_together_and_moves_nothing_when_rows_follow(pairs: list[tuple[str, str]], share: float) -> None:
    rows = [{"db_id": db, "query": sql, "question": str(number)} for number, (db, sql) in enumerate(pairs)]
    train, dev = split_rows(rows, share)
    assert len(train) + len(dev) == len(rows)
    sides = [{(row["db_id"], row["query"]) for row in part} for part in (train, dev)]
    assert not sides[0] & sides[1]
    grown_train, grown_dev = split_rows([*rows, *rows], share)
    assert (grown_train, grown_dev) == (
        [row for row in [*rows, *rows] if row in train],
        [row for row in [*rows, *rows] if row in dev],
    )


def test_a_folder_named_from_here_is_named_from_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("project/spider", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    session = open_session(None, [], {}, use_file=False)
    flags = {"data.path": "project/spider", "teacher.model": "elsewhere", "train.student": "Qwen/Qwen2.5-Coder-0.5B"}
    init(session, Path("project/kidpipe.toml"), flags, force=False)
    config = load_config(tmp_path / "project" / "kidpipe.toml", {}, {}).config
    assert Path(config.data.path).resolve() == tmp_path / "project" / "spider"
    assert Path(config.teacher.model) == tmp_path / "elsewhere"
    assert config.train.student == "Qwen/Qwen2.5-Coder-0.5B"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_a_valid_configuration(preset: str, tmp_path: Path) -> None:
    init(open_session(None, [], {}, use_file=False), tmp_path / "kidpipe.toml", {}, force=False, preset=preset)
    config = load_config(tmp_path / "kidpipe.toml", {}, {}).config
    for name, value in PRESETS[preset].items():
        section, _, field = name.partition(".")
        assert getattr(getattr(config, section), field) == value


def test_rows_in_a_log_come_along_and_a_broken_file_stops_no_other(shop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    (folder / "inner").mkdir(parents=True)
    shop.rename(folder / "shop.db")
    (folder / "empty.db").touch()
    (folder / "half.db").write_bytes((folder / "shop.db").read_bytes()[:4096])
    (folder / "inner" / "text.sqlite").write_text("no database", encoding="utf-8")
    connection = duckdb.connect(str(folder / "duck.duckdb"))
    connection.execute("PRAGMA disable_checkpoint_on_shutdown")
    connection.execute("CREATE TABLE sale (price INT)")
    connection.execute("INSERT INTO sale VALUES (7)")
    connection.close()
    rows = [
        {"question": f"how many in {name}?", "sql": "SELECT count(*) FROM sale", "db": name}
        for name in ("shop", "empty", "half", "text", "duck", "nowhere")
    ]
    questions = tmp_path / "q.json"
    questions.write_text(json.dumps(rows), encoding="utf-8")
    report = run(tmp_path / "made", str(questions), folder)
    assert report["left_out"] == {
        "about a database that can't be used (empty.db is an empty file)": 1,
        "about a database that can't be used (database unreadable: database disk image is malformed)": 1,
        "about a database that can't be used (text.sqlite is neither a SQLite nor a DuckDB database)": 1,
        "about a database that is not there (nowhere)": 1,
    }
    assert report["failing"] == 0
    assert set(report["databases"]) == {"duck", "shop"}


@pytest.mark.parametrize(
    ("path", "config"),
    [
        ("kidpipe.toml", ""),
        ("my shop.toml", " --config 'my shop.toml'"),
        ("sub/kidpipe.toml", " --config sub/kidpipe.toml"),
        ("../kidpipe.toml", ""),
    ],
)
def test_the_next_command_names_a_file_that_is_not_found_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str, config: str
) -> None:
    (tmp_path / "work" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    init(open_session(None, [], {}, use_file=False), Path(path), {"teacher.model": "T"}, force=False)
    assert capsys.readouterr().out.splitlines()[-1] == f"next        kidpipe build-imperfect{config}"
