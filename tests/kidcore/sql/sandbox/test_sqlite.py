"""The inner ring for SQLite, in this process: one reading statement, its rows, and a kind for every way it can fail."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kidcore.sql.sandbox.admission import admits, describe
from kidcore.sql.sandbox.job import Job, Limits, ResultKind, Row
from kidcore.sql.sandbox.sqlite import SqliteEngine

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
Run = Callable[..., tuple[ResultKind, list[Row], int, str]]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "a b?c#.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            """
            CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, price REAL, data BLOB);
            INSERT INTO t VALUES (1, 'a', 0.5, x'00ff'), (2, 'Łódź', NULL, NULL), (3, CAST(x'ff80' AS TEXT), -1e300, x'');
            CREATE INDEX by_name ON t (name);
            CREATE VIEW v AS SELECT id, name FROM t WHERE id < 3;
            CREATE TABLE many (n INTEGER);
            """
        )
        connection.executemany("INSERT INTO many VALUES (?)", [(number,) for number in range(1000)])
    return path


@pytest.fixture
def run(database: Path) -> Run:
    def execute(sql: str, *, reverse: bool = False, **limits: float) -> tuple[ResultKind, list[Row], int, str]:
        return SqliteEngine(Limits(**limits)).execute(Job(str(database), sql, reverse=reverse))  # type: ignore[arg-type]

    return execute


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT id, name FROM t WHERE id < 3", [(1, "a"), (2, "Łódź")]),
        ("SELECT price, data FROM t", [(0.5, b"\x00\xff"), (None, None), (-1e300, b"")]),
        ("SELECT * FROM v ORDER BY id DESC;", [(2, "Łódź"), (1, "a")]),
        ('SELECT "no such column"', [("no such column",)]),
        ("SELECT 1 -- and no more", [(1,)]),
        ("SELECT 1; -- and no more", [(1,)]),
        ("SELECT id FROM t WHERE 0", []),
        ("EXPLAIN QUERY PLAN SELECT 1", None),
        ("VALUES (1), (2)", [(1,), (2,)]),
        ("SELECT value FROM json_each('[1, 2]')", [(1,), (2,)]),
    ],
)
def test_reading_gives_rows_as_python_has_them(run: Run, sql: str, rows: list[Row] | None) -> None:
    kind, found, columns, message = run(sql)
    assert (kind, message) == (ResultKind.OK, "")
    if rows is not None:
        assert found == rows
    if found:
        assert len(columns) == len(found[0])


def test_texts_that_are_no_utf8_stay_apart_and_later_statements_are_read_as_before(database: Path) -> None:
    engine = SqliteEngine(Limits())
    odd = engine.execute(Job(str(database), "SELECT name FROM t WHERE id = 3"))
    assert odd[1] == [("\udcff\udc80",)]
    assert engine.execute(Job(str(database), "SELECT name FROM v"))[1] == [("a",), ("Łódź",)]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM t",
        "INSERT INTO t (id) VALUES (9)",
        "UPDATE t SET name = 'x'",
        "CREATE TABLE u (a)",
        "CREATE TEMP TABLE u (a)",
        "DROP TABLE t",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "PRAGMA query_only = OFF",
        " /* so */ -- or so\n pragma table_info(t)",
        "SELECT * FROM pragma_table_info('t')",
        "VACUUM INTO '/tmp/stolen'",
        "REINDEX",
        "ANALYZE",
        "BEGIN",
        "SAVEPOINT a",
        "SELECT load_extension('x')",
        "SELECT fts3_tokenizer('simple')",
        "WITH x AS (SELECT 1) DELETE FROM t",
        "SELECT 1; SELECT 2",
        "SELECT 1; DELETE FROM t",
    ],
)
def test_whatever_is_not_reading_is_refused_and_changes_nothing(run: Run, database: Path, sql: str) -> None:
    before = database.read_bytes()
    kind, rows, _columns, message = run(sql)
    # SQLite itself knows some of these functions in some of its builds only.
    assert kind is ResultKind.REFUSED or (kind is ResultKind.ERROR and "no such function" in message), message
    assert (rows, bool(message)) == ([], True)
    assert database.read_bytes() == before
    assert [path.name for path in database.parent.iterdir()] == [database.name], "nor anything beside it"


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("", "no statement"),
        (" ;", "no statement"),
        ("-- nothing", "no statement"),
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM nowhere", "no such table"),
        ("SELECT abs(-9223372036854775808)", "overflow"),
        ("SELECT ?", "binding"),
    ],
)
def test_what_the_engine_cannot_run_is_an_error_in_its_words(run: Run, sql: str, said: str) -> None:
    kind, rows, _columns, message = run(sql)
    assert (kind, rows) == (ResultKind.ERROR, [])
    assert said in message


@pytest.mark.parametrize("content", [None, b"", b"no database at all, whatever its name is" * 30])
def test_a_file_that_is_no_database_is_an_error_and_none_is_made(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.sqlite"
    if content is not None:
        path.write_bytes(content)
    kind, _rows, _columns, message = SqliteEngine(Limits()).execute(Job(str(path), "SELECT * FROM t"))
    assert kind is ResultKind.ERROR
    assert message
    assert path.exists() is (content is not None)


@pytest.mark.parametrize("most", [1, 10, 255, 256, 999])
def test_more_rows_than_are_allowed_are_too_many_whatever_the_number(run: Run, most: int) -> None:
    for sql in ("SELECT n FROM many", f"SELECT n FROM many LIMIT {most + 1}"):
        assert run(sql, max_rows=most) == (ResultKind.MEMORY, [], ("n",), f"more than {most} rows")
    for number in (most, most - 1):
        kind, rows, _columns, _message = run(f"SELECT n FROM many LIMIT {number}", max_rows=most)
        assert (kind, len(rows)) == (ResultKind.OK, number)


def test_a_large_result_stops_before_it_is_whole(run: Run) -> None:
    kind, _rows, _columns, message = run("SELECT n, hex(zeroblob(500)) FROM many", max_bytes=300_000)
    assert (kind, message) == (ResultKind.MEMORY, "a result of more than 300000 bytes")


def test_steps_stop_a_statement_at_the_same_place_every_time(database: Path) -> None:
    engine = SqliteEngine(Limits(max_steps=20_000))
    for _ in range(2):
        assert engine.execute(Job(str(database), ENDLESS)) == (ResultKind.TIMEOUT, [], (), "more than 20000 steps")
        assert engine.execute(Job(str(database), "SELECT count(*) FROM many"))[1] == [(1000,)]


def test_steps_are_counted_anew_for_each_statement(database: Path) -> None:
    engine = SqliteEngine(Limits(max_steps=100_000))
    counting = ENDLESS.replace("SELECT i + 1 FROM n", "SELECT i + 1 FROM n WHERE i < 2000")
    assert [engine.execute(Job(str(database), counting))[1] for _ in range(12)] == [[(2000,)]] * 12


def test_how_one_statement_ended_is_forgotten_by_the_next(database: Path) -> None:
    engine = SqliteEngine(Limits(max_steps=20_000))
    ends = [engine.execute(Job(str(database), sql))[0] for sql in ("DELETE FROM t", "SELEC", ENDLESS, "SELEC", "SELECT 1")]
    assert ends == [ResultKind.REFUSED, ResultKind.ERROR, ResultKind.TIMEOUT, ResultKind.ERROR, ResultKind.OK]


def test_fewer_steps_than_a_tick_has_are_counted_too(run: Run) -> None:
    assert run(ENDLESS, max_steps=1000)[0] is ResultKind.TIMEOUT
    assert run("SELECT 1", max_steps=1000)[0] is ResultKind.OK


def test_the_deadline_stops_what_counts_no_steps(run: Run) -> None:
    assert run(ENDLESS, timeout_s=0.01) == (ResultKind.TIMEOUT, [], (), "more than 0.01 s")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT zeroblob(2000)",
        "SELECT hex(zeroblob(900))",
        "SELECT " + ", ".join(["1"] * 50),
        "SELECT " + "+".join(["1"] * 90),
        " UNION ALL ".join(["SELECT 1"] * 30),
    ],
    ids=["value", "made value", "columns", "depth", "compound"],
)
def test_each_limit_binds(run: Run, sql: str) -> None:
    limits = {"max_value_bytes": 1500, "max_columns": 40, "max_expression_depth": 60, "max_compound": 20}
    assert run(sql)[0] is ResultKind.OK
    assert run(sql, **limits)[0] in (ResultKind.REFUSED, ResultKind.ERROR)


@pytest.mark.parametrize(
    ("sql", "num_rows"),
    [
        ("SELECT n FROM many WHERE " + " OR ".join(f"n = {number}" for number in range(900)), 900),
        (" UNION ALL ".join(["SELECT 1"] * 400), 400),
        ("SELECT " + ", ".join(["1"] * 1900), 1),
    ],
    ids=["depth", "compound", "columns"],
)
def test_what_sqlite_itself_admits_is_executed(run: Run, sql: str, num_rows: int) -> None:
    kind, rows, _columns, message = run(sql)
    assert (kind, len(rows), message) == (ResultKind.OK, num_rows, "")


def test_reverse_visits_rows_the_other_way_where_no_order_is_asked_for(run: Run) -> None:
    sql = "SELECT n FROM many LIMIT 3"
    assert run(sql)[1] == [(0,), (1,), (2,)]
    assert run(sql, reverse=True)[1] == [(999,), (998,), (997,)]
    ordered = "SELECT n FROM many ORDER BY n LIMIT 3"
    assert run(ordered, reverse=True)[1] == run(ordered)[1]


def test_of_many_databases_the_first_ones_are_closed_and_opened_again(tmp_path: Path) -> None:
    engine = SqliteEngine(Limits())
    paths = [tmp_path / f"{number}.sqlite" for number in range(20)]
    for number, path in enumerate(paths):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"CREATE TABLE t AS SELECT {number} AS a")
    for _ in range(2):
        for number, path in enumerate(paths):
            assert engine.execute(Job(str(path), "SELECT a FROM t"))[1] == [(number,)]


@pytest.mark.parametrize(
    ("action", "first", "second", "is_admitted"),
    [
        (sqlite3.SQLITE_SELECT, None, None, True),
        (sqlite3.SQLITE_READ, "t", "a", True),
        (sqlite3.SQLITE_RECURSIVE, None, None, True),
        (sqlite3.SQLITE_FUNCTION, None, "abs", True),
        (sqlite3.SQLITE_FUNCTION, None, "LOAD_Extension", False),
        (sqlite3.SQLITE_FUNCTION, None, None, True),
        (sqlite3.SQLITE_PRAGMA, "data_version", None, True),
        (sqlite3.SQLITE_PRAGMA, "data_version", "1", False),
        (sqlite3.SQLITE_PRAGMA, "table_info", "t", False),
        (sqlite3.SQLITE_DELETE, "t", None, False),
        (sqlite3.SQLITE_TRANSACTION, "BEGIN", None, False),
        (12345, None, None, False),
    ],
)
def test_only_reading_is_admitted(action: int, first: str | None, second: str | None, is_admitted: bool) -> None:
    assert admits(action, first, second, "main") is is_admitted


def test_a_pragma_of_another_database_is_not_the_one_that_is_let_through() -> None:
    assert not admits(sqlite3.SQLITE_PRAGMA, "data_version", None, "temp")


@pytest.mark.parametrize(
    ("action", "arguments", "words"),
    [
        (sqlite3.SQLITE_DELETE, ("t", None), "delete t"),
        (sqlite3.SQLITE_CREATE_TEMP_TABLE, ("u", None), "create temp table u"),
        (sqlite3.SQLITE_FUNCTION, (None, "edit"), "function edit"),
        (sqlite3.SQLITE_ATTACH, (None, None), "attach"),
        (99999, ("a", "b"), "99999 a b"),
    ],
)
def test_an_action_in_words(action: int, arguments: tuple[str | None, str | None], words: str) -> None:
    assert describe(action, *arguments) == words
