"""Views whose rows change by themselves are told from those whose rows follow from the database."""

import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from kidcore.sql.schema import duckdb_reader, sqlite_reader
from kidcore.sql.schema.unsettled import unsettled_views

SETTLED = {
    "plain": "SELECT a FROM t",
    "of a column": "SELECT date(day), strftime('%Y', day), datetime(day, '+1 day') FROM t",
    "names": 'SELECT random, "date", t.time FROM t',
    "texts": "SELECT 'random()', 'now is', '--' FROM t",
    "comment": "SELECT a /* random() */ FROM t -- current_date",
    "sampled": "SELECT sample FROM t",
}
UNSETTLED = {
    "now": "SELECT date('now') AS d FROM t",
    "now with modifiers": "SELECT julianday('NOW', 'localtime') - julianday(day) AS age FROM t",
    "nothing": "SELECT datetime ( ) AS d",
    "format alone": "SELECT strftime('%s') AS d",
    "keyword": "SELECT a FROM t WHERE day < CURRENT_DATE",
    "dice": "SELECT a FROM t ORDER BY random()",
    "quoted": 'SELECT "random"() AS r',
}


@pytest.mark.parametrize("name", [*SETTLED, *UNSETTLED])
def test_what_asks_for_the_time_or_draws_is_found(name: str) -> None:
    sql = f"CREATE VIEW v AS {(SETTLED | UNSETTLED)[name]}"
    assert unsettled_views({"v": sql}) == ({"v"} if name in UNSETTLED else set())


def test_so_is_what_reads_such_a_view() -> None:
    sqls = {
        "Late": "SELECT 1 WHERE current_date > x",
        "over": 'SELECT * FROM "late"',
        "far": "SELECT * FROM OVER",
        "t": "SELECT 1",
    }
    assert unsettled_views(sqls) == {"Late", "over", "far"}


@pytest.mark.parametrize("sql", ["SELECT now() AS d", "SELECT a FROM t USING SAMPLE 1", "SELECT uuid()", "SELECT today() AS d"])
def test_duckdb_has_more_ways(sql: str) -> None:
    assert unsettled_views({"v": sql}, "duckdb") == {"v"}
    assert unsettled_views({"v": "SELECT list(a), x::uuid FROM t"}, "duckdb") == set()


def test_such_a_view_is_shown_without_rows_and_others_with_them(tmp_path: Path) -> None:
    script = (
        "CREATE TABLE t (a INT); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT a FROM t;"
        "CREATE VIEW w AS SELECT a, random() AS r FROM t;"
    )
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as connection:
        connection.executescript(script)
    with duckdb.connect(str(tmp_path / "x.duckdb")) as connection:
        connection.execute(script)
    for schema in (
        sqlite_reader.read(tmp_path / "x.sqlite", "x", 2),
        duckdb_reader.read(tmp_path / "x.duckdb", "x", 2),
    ):
        shown = {table.name: (len(table.columns), table.samples) for table in schema.tables}
        assert shown == {"t": (1, ((1,),)), "v": (1, ((1,),)), "w": (2, ())}
