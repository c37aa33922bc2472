"""What keys prove, and what they must not be taken to prove: every "yes" holds on any rows that keep the keys."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.suites.key_proofs import Keys, is_equal_by_keys, read_keys
from eval.suites.mutants import mutants

SCRIPT = """
CREATE TABLE a (id INTEGER PRIMARY KEY, x INTEGER);
CREATE TABLE b (k INTEGER NOT NULL, n INTEGER NOT NULL, a_id INTEGER NOT NULL REFERENCES a, y INTEGER REFERENCES a (id),
                PRIMARY KEY (k, n));
CREATE VIEW v AS SELECT x AS id FROM a;
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    path = tmp_path_factory.mktemp("keys") / "keys of ours?.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCRIPT + "CREATE VIRTUAL TABLE f USING fts5 (body);")
    return read_keys(path)


def test_keys_are_read_as_declared(keys: Keys) -> None:
    assert keys.columns["b"] == {"k", "n", "a_id", "y"}
    assert (keys.primary["a"], keys.primary["b"]) == ({"id"}, {"k", "n"})
    assert keys.present >= {("a", "id"), ("b", "k"), ("b", "a_id")}
    assert ("b", "y") not in keys.present
    assert keys.references == {("b", "a_id", "a", "id"), ("b", "y", "a", "id")}
    assert not {"v", "f"} & keys.columns.keys()


def test_keys_are_read_where_nothing_can_be_written_beside_the_file(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "d.sqlite")) as connection:
        connection.executescript("PRAGMA journal_mode = wal; CREATE TABLE a (id INTEGER PRIMARY KEY);")
    (tmp_path / "d.sqlite-shm").symlink_to(tmp_path / "nowhere" / "shm")
    assert read_keys(tmp_path / "d.sqlite").primary == {"a": {"id"}}


def test_a_key_of_several_columns_references_nothing_by_one_of_them(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "d.sqlite")) as connection:
        connection.executescript(
            SCRIPT + "CREATE TABLE c (k INTEGER NOT NULL, n INTEGER NOT NULL, FOREIGN KEY (k, n) REFERENCES b (k, n));"
        )
    found = read_keys(tmp_path / "d.sqlite")
    assert not any(table == "c" for table, *_rest in found.references)


@pytest.mark.parametrize(
    ("gold", "mutant", "is_equal"),
    [
        ("SELECT k, n, y FROM b", "SELECT DISTINCT k, n, y FROM b", True),
        ("SELECT k FROM b", "SELECT DISTINCT k FROM b", False),
        ("SELECT k FROM b WHERE n = 3", "SELECT DISTINCT k FROM b WHERE n = 3", True),
        ("SELECT k FROM b WHERE NOT n = 3", "SELECT DISTINCT k FROM b WHERE NOT n = 3", False),
        ("SELECT k FROM b WHERE n = y", "SELECT DISTINCT k FROM b WHERE n = y", False),
        ("SELECT id + 1 FROM a", "SELECT DISTINCT id + 1 FROM a", False),
        ("SELECT id FROM v", "SELECT DISTINCT id FROM v", False),
        ("SELECT id FROM (SELECT x AS id FROM a) AS a", "SELECT DISTINCT id FROM (SELECT x AS id FROM a) AS a", False),
        # A name that WITH defines is not the table of that name.
        (
            "WITH a AS (SELECT y AS id FROM b) SELECT id FROM a",
            "WITH a AS (SELECT y AS id FROM b) SELECT DISTINCT id FROM a",
            False,
        ),
        (
            "WITH a AS (SELECT y AS id FROM b) SELECT COUNT(id) FROM a",
            "WITH a AS (SELECT y AS id FROM b) SELECT COUNT(DISTINCT id) FROM a",
            False,
        ),
        (
            "WITH c AS (SELECT id FROM a) SELECT 1 FROM c",
            "WITH c AS (SELECT DISTINCT id FROM a) SELECT 1 FROM c",
            True,
        ),
        ("SELECT COUNT(k) FROM b", "SELECT COUNT(DISTINCT k) FROM b", False),
        ("SELECT COUNT(id) FROM a AS z", "SELECT COUNT(DISTINCT z.id) FROM a AS z", False),
        ("SELECT COUNT(z.id) FROM a AS z", "SELECT COUNT(DISTINCT z.id) FROM a AS z", True),
        ("SELECT 1 FROM b JOIN a ON a.id = b.a_id", "SELECT 1 FROM b LEFT JOIN a ON a.id = b.a_id", True),
        ("SELECT 1 FROM b JOIN a ON b.a_id > a.id", "SELECT 1 FROM b LEFT JOIN a ON b.a_id > a.id", False),
        ("SELECT 1 FROM b JOIN a USING (x)", "SELECT 1 FROM b LEFT JOIN a USING (x)", False),
        ("SELECT 1 FROM b, a", "SELECT 1 FROM b LEFT JOIN a", False),
        ("SELECT 1 FROM a UNION ALL SELECT id FROM a", "SELECT 1 FROM a UNION ALL SELECT DISTINCT id FROM a", False),
        ("SELECT (", "SELECT (", False),
        ("(" * 2000 + "SELECT 1", "SELECT 1", False),
    ],
)
def test_what_holds_on_every_database_and_what_does_not(keys: Keys, gold: str, mutant: str, is_equal: bool) -> None:
    assert is_equal_by_keys(gold, mutant, keys) is is_equal


_GOLDS = (
    "SELECT id, x FROM a",
    "SELECT k FROM b WHERE n = 1",
    "SELECT COUNT(id) FROM a WHERE x > 1",
    "SELECT b.k, a.x FROM b JOIN a ON b.a_id = a.id",
    "SELECT b.k, a.x FROM b JOIN a ON b.y = a.id",
    "WITH a AS (SELECT y AS id FROM b) SELECT id FROM a",
)


@pytest.fixture(scope="module")
def proved(keys: Keys) -> list[tuple[str, str]]:
    found = [(gold, mutant) for gold in _GOLDS for mutant in mutants(gold) if is_equal_by_keys(gold, mutant, keys)]
    assert len(found) >= 4
    return found


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_proof_is_never_refuted_by_rows_that_keep_the_keys(proved: list[tuple[str, str]], data: st.DataObject) -> None:
    small = st.integers(0, 2)
    ids = data.draw(st.sets(small, min_size=1))
    pairs = data.draw(st.sets(st.tuples(small, small)))
    referred = st.sampled_from(sorted(ids))
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCRIPT)
        connection.executemany("INSERT INTO a VALUES (?, ?)", [(n, data.draw(small)) for n in sorted(ids)])
        rows = [(*pair, data.draw(referred), data.draw(st.none() | referred)) for pair in sorted(pairs)]
        connection.executemany("INSERT INTO b VALUES (?, ?, ?, ?)", rows)
        for pair in proved:
            results = [sorted(connection.execute(sql).fetchall(), key=repr) for sql in pair]
            assert results[0] == results[1], pair
