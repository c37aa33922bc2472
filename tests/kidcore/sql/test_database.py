"""Databases as people have them: logs beside them, folders and pipes in their place, names that lead elsewhere."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from eval.databases import Databases
from eval.execution import GoldCache
from eval.verdicts import VerdictKind, judge
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.config.digests import FileDigests
from kidcore.errors import KidpipeError
from kidcore.sql.availability import lacking_of
from kidcore.sql.database import Database, DuckdbDatabase, SqliteDatabase, database_in, database_of
from kidcore.sql.datasets import DataSet, Example
from kidcore.sql.sandbox.job import Job, ResultKind
from kidcore.sql.sandbox.pool import SandboxPool


def sqlite(path: Path, script: str = "CREATE TABLE t (a INT); INSERT INTO t VALUES (1)") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


def rows(database: Database, sql: str) -> list[tuple[object, ...]]:
    with SandboxPool(workers=1) as pool:
        result = pool.execute(database.job(sql))
    assert (result.kind, result.message) == (ResultKind.OK, "")
    return result.rows


def with_log(path: Path) -> Path:
    """A database whose second row is only in its write-ahead log, as a program that was killed leaves it."""
    busy = path.parent / "busy" / path.name
    sqlite(busy)
    with closing(sqlite3.connect(busy)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO t VALUES (2)")
        connection.execute("CREATE TABLE late (b INT)")
        connection.commit()
        shutil.copyfile(busy, path)
        shutil.copyfile(f"{busy}-wal", f"{path}-wal")
    shutil.rmtree(busy.parent)
    return path


def test_rows_in_a_write_ahead_log_are_read_and_nothing_is_written(tmp_path: Path) -> None:
    path = with_log(tmp_path / "x.sqlite")
    before = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    database = database_of(path)
    assert [table.name for table in database.schema(5).tables] == ["t", "late"]
    assert database.schema(5).tables[0].samples == ((1,), (2,))
    assert rows(database, "SELECT a FROM t") == [(1,), (2,)]
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == before


def test_a_hot_journal_is_rolled_back(tmp_path: Path) -> None:
    """A program that was killed in the middle of a transaction: the file has pages that were never committed."""
    busy = sqlite(tmp_path / "busy" / "x.sqlite", "CREATE TABLE t (a TEXT); INSERT INTO t VALUES ('kept')")
    with closing(sqlite3.connect(busy, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE t SET a = 'lost'")
        connection.executemany("INSERT INTO t VALUES (?)", [("lost" * 20,) for _ in range(2000)])
        for suffix in ("", "-journal"):
            shutil.copyfile(f"{busy}{suffix}", tmp_path / f"x.sqlite{suffix}")
    assert rows(database_of(tmp_path / "x.sqlite"), "SELECT a FROM t") == [("kept",)]


def test_the_digest_is_the_files_own_and_counts_what_is_in_its_log(tmp_path: Path) -> None:
    path, digests = with_log(tmp_path / "x.sqlite"), FileDigests(None)
    with_both = database_of(path).digest(digests)
    Path(f"{path}-wal").unlink()
    assert database_of(path).digest(digests) == digests.digest(path) != with_both
    assert database_of(tmp_path / "none.sqlite").digest(digests) == "missing"
    assert database_of(tmp_path).digest(digests) == "missing"


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "a.sqlite")) as connection:
        connection.execute("CREATE TABLE t (a INT)")
    sqlite(tmp_path / "b.duckdb")
    kinds = [database_of(tmp_path / name) for name in ("a.sqlite", "b.duckdb", "none.duckdb", "none.sqlite")]
    assert [type(kind) for kind in kinds] == [DuckdbDatabase, SqliteDatabase, DuckdbDatabase, SqliteDatabase]
    assert [len(kind.schema().tables) for kind in kinds[:2]] == [1, 1]
    assert [kind.dialect for kind in kinds] == ["duckdb", "sqlite", "duckdb", "sqlite"]


@pytest.mark.parametrize("found", ["shop/shop.db", "shop/shop.sqlite3", "Shop/Shop.sqlite", "shop.sqlite", "shop/SHOP.SQLITE"])
def test_of_a_missing_database_what_is_like_it_is_named(found: str, tmp_path: Path) -> None:
    sqlite(tmp_path / found)
    fault = database_in(tmp_path, "shop").fault
    assert fault is not None
    place = found.partition("/")[0] if found.startswith("Shop") else found
    assert fault.fix == f"there is {tmp_path / place}; if that is it, it has to be {tmp_path / 'shop' / 'shop.sqlite'}"
    with pytest.raises(KidpipeError, match=r"(?s)none of the 1 databases.*fix: +there is "):
        lacking_of(DataSet([], tmp_path), {"shop": 1}, 1)
    other = database_in(tmp_path, "market").fault
    assert other is not None
    assert other.fix == "set data.databases to the folder that holds it"


def test_an_empty_duckdb_file_hides_no_sqlite_database(tmp_path: Path) -> None:
    made = sqlite(tmp_path / "shop" / "shop.sqlite")
    (tmp_path / "shop" / "shop.duckdb").touch()
    assert database_in(tmp_path, "shop").path == made


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sqlite(tmp_path / "shop.sqlite")

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # root, as which tests may run, may read anything
    fault = database_of(path).fault
    assert fault is not None
    assert (fault.what, "right to read" in fault.fix) == ("database can't be read: Permission denied", True)


def odd_files(folder: Path) -> dict[str, str]:
    """A file of each sort under its db_id, with what is said of it."""
    texts = {"empty": b"", "text": b"CREATE TABLE t (a INT);", "short": b"SQLite", "half": b"SQLite format 3\0" + b"\0" * 50}
    for name, content in texts.items():
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}.sqlite").write_bytes(content)
    (folder / "folder" / "folder.sqlite").mkdir(parents=True)
    (folder / "pipe").mkdir()
    os.mkfifo(folder / "pipe" / "pipe.sqlite")
    (folder / "device").mkdir()
    (folder / "device" / "device.sqlite").symlink_to("/dev/null")
    (folder / "loop").mkdir()
    (folder / "loop" / "loop.sqlite").symlink_to("loop.sqlite")
    sqlite(folder.parent / "outside" / "outside.sqlite")
    return {
        "empty": "database is empty: 0 bytes",
        "text": "database unreadable: file is not a database",
        "short": "database unreadable: file is not a database",
        "half": "database unreadable: file is not a database",
        "folder": "database is a folder",
        "pipe": "database is no file: a pipe or a device",
        "device": "database is no file: a pipe or a device",
        "loop": "database can't be reached",
        "gone": "database missing",
        "../outside": "db_id '../outside' does not name a folder of databases",
        str(folder.parent / "outside"): "does not name a folder of databases",
        "..": "db_id '..' does not name a folder of databases",
        "a\\b": "does not name a folder of databases",
        "a\0b": "does not name a folder of databases",
        "x" * 300: "is longer than a file's name can be",
        "\ud800": "does not name a folder of databases",
    }


def test_odd_files_are_named_and_stop_nothing(tmp_path: Path) -> None:
    """In schemas, in jobs and in a whole evaluation: each with its reason, the good one among them right."""
    folder = tmp_path / "databases"
    expected = odd_files(folder)
    sqlite(folder / "good" / "good.sqlite")
    data = DataSet([], folder)
    for db_id, reason in expected.items():
        with pytest.raises(KidpipeError) as caught:
            data.database(db_id).schema()
        assert reason in caught.value.what
    examples = [Example(str(number), db_id, "?", "SELECT a FROM t") for number, db_id in enumerate([*expected, "good"])]
    predictions = {example.example_id: example.gold_sql for example in examples}
    verdicts = judge(examples, predictions, Databases(data.database), GoldCache(EvalSettings(), SandboxSettings(workers=1)))
    assert [verdict.kind for verdict in verdicts] == [VerdictKind.GOLD_ERROR] * len(expected) + [VerdictKind.CORRECT]
    for verdict, reason in zip(verdicts, expected.values(), strict=False):
        assert reason in verdict.message or verdict.db_id == "half"


def test_a_pipe_in_a_jobs_place_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with SandboxPool(workers=1) as pool:
        results = list(pool.run([Job(str(tmp_path / "pipe"), "SELECT 1"), Job(str(tmp_path), "SELECT 1")]))
    assert [(result.kind, result.message, result.seconds) for result in results] == [
        (ResultKind.ERROR, "database is no file", 0.0)
    ] * 2


@pytest.mark.parametrize("db_id", ["shop", "my shop", "été", "名前", "a.b", "..a", "-x", "a'b", "%", "con"])
def test_ordinary_names_are_found(tmp_path: Path, db_id: str) -> None:
    sqlite(tmp_path / db_id / f"{db_id}.sqlite")
    assert rows(database_in(tmp_path, db_id), "SELECT a FROM t") == [(1,)]
    assert database_in(tmp_path, db_id).schema().db_id == db_id
