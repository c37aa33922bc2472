"""Variants of odd databases: what SQLite lets a person declare is kept, and what can't be changed stays as it was."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from eval.suites.fuzz import REPORT_FILE, DatabaseReport, make_suite, total
from eval.suites.mutants import literals
from eval.suites.variants import Aim, make_variant
from kidcore.config.config import EvalSettings
from kidcore.errors import KidpipeError
from kidcore.sql.datasets import Example


def made(folder: Path, script: str, rows: dict[str, list[tuple[object, ...]]]) -> Path:
    path = folder / "origin.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(script)
        for table, values in rows.items():
            connection.executemany(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(values[0]))})', values)
    return path


def read(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def variants(source: Path, folder: Path, count: int = 6, aim: Aim | None = None, **literals: set[object]) -> list[Path]:
    paths = [folder / f"{number}.sqlite" for number in range(count)]
    for path in paths:
        make_variant(source, path, literals, path.stem, aim or Aim())
    return paths


def test_what_is_declared_holds_in_every_variant(tmp_path: Path) -> None:
    script = (
        'CREATE TABLE "we""ird table" (id INTEGER PRIMARY KEY, "order" TEXT NOT NULL, code TEXT UNIQUE, n INTEGER CHECK (n < 50),'
        " twice INTEGER GENERATED ALWAYS AS (n * 2)) STRICT; CREATE TABLE bare (k TEXT PRIMARY KEY, v INTEGER) WITHOUT ROWID;"
    )
    source = made(tmp_path, script, {})
    with closing(sqlite3.connect(source)) as connection, connection:
        rows = [(n, f"o{n}", f"c{n}", n) for n in range(20)]
        connection.executemany('INSERT INTO "we""ird table" (id, "order", code, n) VALUES (?, ?, ?, ?)', rows)
        connection.executemany("INSERT INTO bare VALUES (?, ?)", [(f"k{n}", n) for n in range(5)])
    ours = 'SELECT id, "order", code, n, twice FROM "we""ird table" ORDER BY id'
    for path in variants(source, tmp_path, n={49, 1000}, order={"a%"}):
        rows = read(path, ours)
        assert {(row[0], row[2]) for row in rows} <= {(n, f"c{n}") for n in range(20)}, "keys stay as they are"
        assert all(row[1] is not None and (row[3] is None or row[3] < 50) for row in rows)
        assert all(row[4] == (None if row[3] is None else 2 * row[3]) for row in rows)
        assert read(path, "SELECT * FROM bare") == read(source, "SELECT * FROM bare")
        assert read(path, "PRAGMA integrity_check") == [("ok",)]
        assert read(path, "SELECT sql FROM sqlite_master ORDER BY name") == read(
            source, "SELECT sql FROM sqlite_master ORDER BY name"
        )
    for column in ('"order"', "n"):
        values = f'SELECT id, {column} FROM "we""ird table" ORDER BY id'
        before = dict(read(source, values))
        # Of a column with a check, rows change that keep to it, those behind one that does not too.
        changed = [key for path in tmp_path.glob("[0-9].sqlite") for key, value in read(path, values) if before[key] != value]
        assert max(changed) == 19


def test_references_point_at_rows_and_may_be_missing_only_where_they_may(tmp_path: Path) -> None:
    script = (
        "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (a_id INTEGER NOT NULL REFERENCES a (id),"
        " maybe INTEGER REFERENCES a (id),"
        " lost INTEGER REFERENCES nowhere (id));"
    )
    source = made(tmp_path, script, {"a": [(n,) for n in range(1, 9)], "b": [(1 + n % 8, 1, n) for n in range(40)]})
    missing = 0
    for path in variants(source, tmp_path):
        rows = read(path, "SELECT a_id, maybe FROM b")
        assert all(row[0] in range(1, 9) for row in rows)
        assert all(row[1] is None or row[1] in range(1, 9) for row in rows)
        assert len(read(path, "SELECT id FROM a")) == 8, "rows that others refer to stay"
        assert 28 <= len(rows) <= 40
        missing += sum(row[1] is None for row in rows)
    assert missing


def test_keys_of_several_columns_refer_to_rows_as_a_whole(tmp_path: Path) -> None:
    script = (
        "CREATE TABLE p (x INTEGER, y INTEGER, PRIMARY KEY (x, y)); CREATE TABLE q (x INTEGER PRIMARY KEY);"
        " CREATE TABLE c (id INTEGER PRIMARY KEY, x INTEGER NOT NULL, y INTEGER NOT NULL, n INTEGER,"
        " FOREIGN KEY (x, y) REFERENCES p (x, y));"
        # A column of two keys: a value drawn for one of them would break the other.
        " CREATE TABLE two (id INTEGER PRIMARY KEY, x INTEGER REFERENCES q, y INTEGER, FOREIGN KEY (x, y) REFERENCES p (x, y));"
        " CREATE TABLE maybe (id INTEGER PRIMARY KEY, x INTEGER, y INTEGER, FOREIGN KEY (x, y) REFERENCES p (x, y));"
    )
    pairs = [(n, 10 * n) for n in range(8)]
    given: dict[str, list[tuple[object, ...]]] = {
        "p": [*pairs],
        "q": [(n,) for n in range(12)],
        "c": [(n, n % 8, n % 8 * 10, n) for n in range(40)],
        "two": [(n, n % 8, n % 8 * 10) for n in range(40)],
        "maybe": [(n, n % 8, n % 8 * 10) for n in range(40)],
    }
    source = made(tmp_path, script, given)
    changed = missing = 0
    for path in variants(source, tmp_path):
        assert read(path, "PRAGMA foreign_key_check") == []
        assert {(row[1], row[2]) for row in read(path, "SELECT id, x, y FROM c")} <= set(pairs)
        changed += sum((row[1], row[2]) != (row[0] % 8, row[0] % 8 * 10) for row in read(path, "SELECT id, x, y FROM c"))
        assert all(row == (row[0], row[0] % 8, row[0] % 8 * 10) for row in read(path, "SELECT id, x, y FROM two"))
        found = read(path, "SELECT x, y FROM maybe")
        assert all((x is None) == (y is None) for x, y in found)
        missing += sum(x is None for x, _ in found)
    assert changed
    assert missing


def test_literals_and_their_neighbours_are_met(tmp_path: Path) -> None:
    source = made(tmp_path, "CREATE TABLE t (n INTEGER, s TEXT)", {"t": [(n, f"s{n}") for n in range(60)]})
    found = [row for path in variants(source, tmp_path, n={5000}, s={"%Peru%"}) for row in read(path, "SELECT n, s FROM t")]
    assert {4999, 5000, 5001} <= {row[0] for row in found}
    texts = {row[1] for row in found}
    assert {"Peru", "Perux"} <= texts
    assert not any("%" in text for text in texts if text)
    assert None in texts


def test_a_literal_beyond_sqlites_integers_is_a_real(tmp_path: Path) -> None:
    source = made(tmp_path, "CREATE TABLE t (n INTEGER)", {"t": [(n,) for n in range(60)]})
    found = literals(f"SELECT n FROM t WHERE n < {10**20}")
    values = {value for path in variants(source, tmp_path, n=found["n"]) for (value,) in read(path, "SELECT n FROM t")}
    assert 1e20 in values


@pytest.mark.parametrize("rows", [[], [(None, None)], [(2**63 - 1, b"\x00\xff")], [(-(2**63), "")]])
def test_empty_tables_nulls_bytes_and_the_ends_of_integers(tmp_path: Path, rows: list[tuple[object, ...]]) -> None:
    source = made(tmp_path, "CREATE TABLE t (n INTEGER, s BLOB)", {"t": rows} if rows else {})
    for path in variants(source, tmp_path, 4, Aim(few=True)):
        for number, _bytes in read(path, "SELECT n, s FROM t"):
            assert number is None or isinstance(number, int)


def test_few_values_are_few(tmp_path: Path) -> None:
    source = made(tmp_path, "CREATE TABLE t (n INTEGER)", {"t": [(n,) for n in range(100)]})
    counts = [
        len(read(path, "SELECT DISTINCT n FROM t WHERE n NOT NULL")) for path in variants(source, tmp_path, 8, Aim(few=True))
    ]
    assert min(counts) <= 3 < max(counts)


def test_reports_add_up_and_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    assert total([]) == DatabaseReport(0, 0, 0, 0, 0, 0)
    assert total([DatabaseReport(1, 2, 3, 4, 5, 6), DatabaseReport(10, 20, 30, 40, 50, 60)]) == DatabaseReport(
        11, 22, 33, 44, 55, 66
    )
    source = made(tmp_path, "CREATE TABLE t (n INTEGER)", {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    example = Example("a", "origin", "", "SELECT n FROM t")
    for name in ("mine", "file"):
        with pytest.raises(KidpipeError, match="something else than a test suite") as caught:
            make_suite([example], lambda _db_id: source, tmp_path / name, num_variants=1, seed=0, settings=EvalSettings())
        assert "new or an empty folder" in caught.value.fix
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "mine" / REPORT_FILE).exists()
