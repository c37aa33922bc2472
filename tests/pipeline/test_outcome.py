"""What becomes of imperfect SQL on a real database: executed where it parses, compared as the evaluation does."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kidcore.sql.database import Database, database_in
from kidcore.sql.sandbox.job import Job, Limits, QueryResult, ResultKind, dump_plain
from kidcore.sql.sandbox.sqlite import SqliteEngine
from kidcore.store.graph import Output
from kidcore.store.schemas import schema_of
from pipeline.outcome import OutcomeStage, gives_gold
from pipeline.rewrite import parses
from tests.pipeline.bigram import finished, ingest_table, task


class HerePool:
    """The engine of the sandbox in this process; what it was asked is kept."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self._engine = SqliteEngine(Limits(max_steps=200_000))

    def run(self, jobs: Iterable[Job]) -> Iterator[QueryResult]:
        for job in jobs:
            self.jobs.append(job)
            if job.fault:
                yield QueryResult(job.key, ResultKind.ERROR, message=job.fault)
                continue
            kind, rows, columns, message = self._engine.execute(job)
            yield QueryResult(job.key, kind, dump_plain(rows), len(rows), columns, message)


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("databases")
    (folder / "d").mkdir()
    with closing(sqlite3.connect(folder / "d" / "d.sqlite")) as connection, connection:
        connection.executescript("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (2, 'z')")
    return folder


def rows_of(*imperfect: str, db_id: str = "d", known: bool = True) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "example_id": [f"train:{number}" for number in range(len(imperfect))],
        "db_id": [db_id] * len(imperfect),
        "view": [0] * len(imperfect),
        "imperfect_sql": list(imperfect),
    }
    return pa.table(columns | ({"parses": [parses(text) for text in imperfect]} if known else {}))


def executed(databases: Path, gold: list[str], imperfect: list[str], db_id: str = "d") -> tuple[Output, HerePool]:
    def database(name: str) -> Database:
        return database_in(databases, name)

    pool = HerePool()
    ingest = ingest_table(*gold, reasons=["aside"] * len(gold), db_id=db_id)
    ingest = ingest.set_column(ingest.schema.get_field_index("reason"), "reason", [pa.nulls(len(gold), pa.string())])
    one = task(ingest=ingest, rewrite=rows_of(*imperfect, db_id=db_id))
    output = OutcomeStage(database, pool)(one)  # type: ignore[arg-type]
    assert finished(one) == len(gold)
    assert output.table.schema == schema_of("outcome")
    return output, pool


@pytest.mark.parametrize(
    ("gold", "imperfect", "executes", "same"),
    [
        ("SELECT a FROM t", "SELECT a FROM t", True, True),
        ("SELECT a FROM t", "SELECT a FROM t ORDER BY a DESC", True, True),
        ("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a DESC", True, False),
        ("SELECT a, b FROM t", "SELECT b, a FROM t", True, True),
        ("SELECT a FROM t", "SELECT DISTINCT a FROM t", True, False),
        ("SELECT a FROM t", "SELECT b FROM t", True, False),
        ("SELECT a FROM t WHERE 0", "SELECT b FROM t WHERE 0", True, True),
        ("SELECT a FROM t", "SELECT c FROM t", False, False),
        ("SELECT a FROM t", "SELECT FROM WHERE", False, False),
        ("SELECT a FROM t", "", False, False),
        ("SELECT a FROM t", "DELETE FROM t", False, False),
        ("SELECT a FROM t", "SELECT a FROM t; SELECT a FROM t", False, False),
        ("SELECT c FROM t", "SELECT a FROM t", True, False),
        ("SELECT c FROM t", "SELECT c FROM t", False, False),
        ("SELECT a FROM t", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i FROM n", False, False),
    ],
)
def test_a_row(databases: Path, gold: str, imperfect: str, executes: bool, same: bool) -> None:
    output, _pool = executed(databases, [gold], [imperfect])
    (row,) = output.table.to_pylist()
    assert (row["executes"], row["same_result"]) == (executes, same)
    assert output.counts == {"in": 1, "out": 1, "execute": int(executes), "same_result": int(same)}


def test_what_does_not_parse_is_not_executed_nor_its_gold_and_equal_statements_run_once(databases: Path) -> None:
    gold = ["SELECT a FROM t", "SELECT a FROM t", "SELECT b FROM t", "SELECT 1"]
    imperfect = ["SELECT b FROM t", "SELECT b FROM t", "SELECT b FROM t", "SELECT FROM WHERE"]
    output, pool = executed(databases, gold, imperfect)
    assert sorted(job.sql for job in pool.jobs) == ["SELECT a FROM t", "SELECT b FROM t"]
    assert [row["same_result"] for row in output.table.to_pylist()] == [False, False, True, False]
    assert output.counts["execute"] == 3


def test_sql_that_only_sqlite_reads_may_be_the_gold_of_another_row(databases: Path) -> None:
    deep = f"SELECT {'(' * 60}a{')' * 60} FROM t"
    assert not parses(deep)
    output, pool = executed(databases, [deep, "SELECT b FROM t"], ["SELECT a FROM t", deep])
    assert output.table.column("same_result").to_pylist() == [True, False]
    assert [job.sql for job in pool.jobs] == [deep, "SELECT a FROM t"]
    alone, _pool = executed(databases, ["SELECT b FROM t"], [deep])
    assert output.table.column("executes").to_pylist()[1:] == alone.table.column("executes").to_pylist() == [False]


def test_a_database_that_cannot_be_read_stops_nothing(databases: Path) -> None:
    output, _pool = executed(databases, ["SELECT 1"] * 2, ["SELECT 1"] * 2, db_id="gone")
    assert output.counts == {"in": 2, "out": 2, "execute": 0, "same_result": 0}
    empty, pool = executed(databases, [], [])
    assert (empty.counts["in"], pool.jobs) == (0, [])


def test_where_rows_do_not_know_whether_they_parse_it_is_found_out(databases: Path) -> None:
    ingest = ingest_table("a", "a")
    pool = HerePool()
    one = task(ingest=ingest, generate=rows_of("SELECT 1", "SELECT FROM WHERE", known=False))
    stage = OutcomeStage(lambda name: database_in(databases, name), pool, "generate")  # type: ignore[arg-type]
    assert stage(one).table.column("executes").to_pylist() == [True, False]
    assert "SELECT FROM WHERE" not in {job.sql for job in pool.jobs}


def result(*rows: tuple[object, ...], kind: ResultKind = ResultKind.OK) -> QueryResult:
    return QueryResult("key", kind, dump_plain(list(rows)), len(rows), ("a",))


def test_two_failures_are_not_the_same_result() -> None:
    failed = result(kind=ResultKind.ERROR)
    assert not gives_gold(failed, failed, "SELECT 1")
    assert not gives_gold(result(), failed, "SELECT 1")
    assert not gives_gold(failed, result(), "SELECT 1")
    assert gives_gold(result(), result(), "SELECT 1")


def test_whether_order_counts_is_asked_of_gold_in_its_dialect() -> None:
    up, down = result((1,), (2,)), result((2,), (1,))
    assert gives_gold(up, down, "SELECT a FROM t")
    assert not gives_gold(up, down, "SELECT a FROM t ORDER BY a")
    text = "SELECT $$ x $$ AS a, ']' FROM t ORDER BY a"
    assert not gives_gold(up, down, text, "duckdb")
    assert gives_gold(up, down, "SELECT $$ ORDER BY $$ FROM t", "duckdb")
