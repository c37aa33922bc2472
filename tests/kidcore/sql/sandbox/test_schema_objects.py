"""The database's own virtual tables, views, generated columns and sizes: they can be read, and open no way to anything else."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from kidcore.sql.sandbox.duckdb import DuckdbEngine
from kidcore.sql.sandbox.job import Job, Limits, QueryResult, ResultKind
from kidcore.sql.sandbox.pool import SandboxPool
from kidcore.sql.sandbox.sqlite import SqliteEngine
from tests.eval.attacks import within_a_second

LIMITS = Limits(timeout_s=2.0, memory_mib=256)
GOLD = "SELECT title FROM docs WHERE docs MATCH 'red'"
SCHEMA = """
    CREATE VIRTUAL TABLE docs USING fts5(title, body);
    INSERT INTO docs VALUES ('one', 'red fish'), ('two', 'blue fish');
    CREATE VIRTUAL TABLE old USING fts4(title, body, tokenize=porter);
    INSERT INTO old VALUES ('one', 'red fish'), ('two', 'blue fishes');
    CREATE VIRTUAL TABLE boxes USING rtree(ident, low, high);
    INSERT INTO boxes VALUES (1, 0, 2), (2, 5, 6);
    CREATE TABLE plain (s TEXT, k INT AS (json_extract(s, '$.k')), CHECK (json_valid(s)));
    INSERT INTO plain (s) VALUES ('{"k": 7}');
    CREATE INDEX by_k ON plain (s ->> '$.k') WHERE json_valid(s);
    CREATE VIEW picked AS SELECT s ->> '$.k' AS k, e.value AS v FROM plain, json_each(plain.s) AS e;
    CREATE VIEW found AS SELECT highlight(docs, 1, '<', '>') AS h FROM docs WHERE docs MATCH 'red';
    CREATE VIEW inside AS SELECT name FROM pragma_table_info('plain');
    CREATE VIEW loader AS SELECT load_extension('/tmp/evil') AS x;
    CREATE VIEW pointer AS SELECT fts3_tokenizer('simple') AS x;
    CREATE VIEW optimiser AS SELECT optimize(old) AS x FROM old;
    CREATE VIEW checker AS SELECT rtreecheck('boxes') AS x;
    CREATE VIEW pages AS SELECT * FROM dbstat;
"""
READINGS = {
    "fts5 scan": ("SELECT title FROM docs", [("one",), ("two",)]),
    "fts5 match": (GOLD, [("one",)]),
    "fts5 rank": ("SELECT title FROM docs WHERE docs MATCH 'fish' ORDER BY rank, title", [("one",), ("two",)]),
    "fts5 as a function": ("SELECT title FROM docs('blue')", [("two",)]),
    "fts5 snippet": ("SELECT snippet(docs, 1, '', '', '', 9) FROM docs WHERE docs MATCH 'red'", [("red fish",)]),
    "fts4 scan": ("SELECT title FROM old", [("one",), ("two",)]),
    "fts4 match": ("SELECT count(*) FROM old WHERE body MATCH 'fishes'", [(2,)]),
    "fts4 offsets": ("SELECT offsets(old) FROM old WHERE old MATCH 'red'", [("1 0 0 3",)]),
    "rtree": ("SELECT ident FROM boxes WHERE high < 3", [(1,)]),
    "json column": ("SELECT k FROM plain", [(7,)]),
    "json index": ("SELECT k FROM plain WHERE s ->> '$.k' = 7 AND json_valid(s)", [(7,)]),
    "json view": ("SELECT k, v FROM picked", [(7, 7)]),
    "fts5 view": ("SELECT h FROM found", [("<red> fish",)]),
}
ATTACKS = {
    "fts5 insert": "INSERT INTO docs VALUES ('x', 'y')",
    "fts5 delete": "DELETE FROM docs",
    "fts5 update": "UPDATE docs SET title = 'x'",
    "fts5 rebuild": "INSERT INTO docs (docs) VALUES ('rebuild')",
    "fts5 optimize": "INSERT INTO docs (docs) VALUES ('optimize')",
    "fts5 delete all": "INSERT INTO docs (docs) VALUES ('delete-all')",
    "fts5 rank setting": "INSERT INTO docs (docs, rank) VALUES ('rank', 'bm25(10.0)')",
    "fts5 integrity": "INSERT INTO docs (docs, rank) VALUES ('integrity-check', 1)",
    "fts5 shadow": "INSERT INTO docs_data VALUES (99, x'00')",
    "fts5 shadow update": "UPDATE docs_content SET c0 = 'evil' RETURNING c0",
    "fts5 shadow drop": "DROP TABLE docs_data",
    "fts5 drop": "DROP TABLE docs",
    "fts5 rename": "ALTER TABLE docs RENAME TO evil",
    "fts5 function": "SELECT fts5(NULL)",
    "fts4 insert": "INSERT INTO old VALUES ('x', 'y')",
    "fts4 rebuild": "INSERT INTO old (old) VALUES ('rebuild')",
    "fts4 optimize": "SELECT optimize(old) FROM old",
    "fts4 automerge": "INSERT INTO old (old) VALUES ('automerge=8')",
    "fts4 tokenizer": "SELECT fts3_tokenizer('simple', x'4141414141414141')",
    "fts4 new table": "CREATE VIRTUAL TABLE evil USING fts4(a, tokenize=unicode61)",
    "rtree insert": "INSERT INTO boxes VALUES (3, 0, 1)",
    "rtree update": "UPDATE boxes SET low = -1",
    "rtree shadow": "DELETE FROM boxes_node",
    "rtree check": "SELECT rtreecheck('boxes')",
    "data version": "PRAGMA data_version",
    "data version, hidden": "/* a */ -- b\n pragma main.data_version",
    "data version, as a table": "SELECT * FROM pragma_data_version",
    "pragma view": "SELECT * FROM inside",
    "writable schema": "PRAGMA writable_schema = ON",
    "writable schema, as a table": "SELECT * FROM pragma_writable_schema",
    "trusted schema": "PRAGMA trusted_schema = ON",
    "function list": "SELECT name FROM pragma_function_list",
    "loading view": "SELECT x FROM loader",
    "tokenizer view": "SELECT x FROM pointer",
    "optimising view": "SELECT x FROM optimiser",
    "checking view": "SELECT x FROM checker",
    "page view": "SELECT * FROM pages",
    "statements": "SELECT * FROM sqlite_stmt",
    "pages": "SELECT * FROM sqlite_dbpage",
    "readfile": "SELECT readfile('/etc/passwd')",
    "edit": "SELECT edit(title) FROM docs",
    "json of a blob": "SELECT json(zeroblob(300000000))",
    "json nested": "SELECT json('" + "[" * 90_000 + "')",
    "json of many": "SELECT json_group_array(a.title || hex(zeroblob(500000))) FROM docs a, docs b, docs c, docs d, docs e",
    "match bomb": "SELECT count(*) FROM docs WHERE docs MATCH '" + "(" * 20_000 + "red" + ")" * 20_000 + "'",
    "endless json": "WITH RECURSIVE r (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT json_group_array(i) FROM r",
}
DUCKDB_ATTACKS = {
    "read a csv": "SELECT * FROM read_csv_auto('/etc/passwd')",
    "read json": "SELECT * FROM read_json('/etc/hostname')",
    "read parquet": "SELECT * FROM read_parquet('{folder}/*.parquet')",
    "read a database": "SELECT * FROM parquet_metadata('{folder}/x.duckdb')",
    "file in a view": "SELECT * FROM outside",
    "copy": "COPY (SELECT 1) TO '{folder}/evil.csv'",
    "copy a database": "COPY FROM DATABASE x TO memory",
    "attach": "ATTACH ':memory:' AS evil",
    "detach": "DETACH x",
    "install": "FORCE INSTALL json",
    "load": "LOAD httpfs",
    "glob": "SELECT file FROM glob('/*')",
    "environment": "SELECT getenv('HOME')",
    "depth": "SET GLOBAL max_expression_depth = 100000",
    "depth as a pragma": "PRAGMA max_expression_depth = 100000",
    "access": "SET GLOBAL enable_external_access = true",
    "unlock": "RESET GLOBAL lock_configuration",
    "log": "CALL enable_logging(storage = 'file', storage_path = '{folder}')",
    "profile": "PRAGMA enable_profiling = 'json'",
    "write in a select": "SELECT * FROM (INSERT INTO t VALUES (1) RETURNING a)",
    "query as text": "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "table as text": "SELECT * FROM query_table(['/etc/passwd'])",
    "json plan": "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''/etc/passwd'')'))",
    "secrets": "CREATE PERSISTENT SECRET evil (TYPE http)",
    "macro": "CREATE TEMP MACRO sum(x) AS 1",
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("objects") / "x.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA)
    return path


@pytest.fixture(scope="module")
def duck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("duck") / "x.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE t (a INT)")
        connection.execute("INSERT INTO t VALUES (4)")
        connection.execute("CREATE VIEW outside AS SELECT * FROM read_text('/etc/passwd')")
    return path


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    with SandboxPool(LIMITS, workers=1) as pool:
        yield pool


@pytest.mark.parametrize("name", READINGS)
def test_it_can_be_read(name: str, database: Path, pool: SandboxPool) -> None:
    sql, rows = READINGS[name]
    result = pool.execute(Job(str(database), sql))
    assert (result.kind, result.message, sorted(result.rows)) == (ResultKind.OK, "", sorted(rows))


def harmless(pool: SandboxPool, path: Path, sql: str, gold: str) -> QueryResult:
    """The attack's result, having checked that file, folder and the next statement are as before."""
    digest, before = hashlib.sha256(path.read_bytes()).digest(), pool.execute(Job(str(path), gold))
    result = within_a_second(pool, Job(str(path), sql))
    assert hashlib.sha256(path.read_bytes()).digest() == digest
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    after = pool.execute(Job(str(path), gold))
    assert after.is_ok
    assert after.rows == before.rows
    return result


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_through_the_schema_harms_nobody(name: str, database: Path, pool: SandboxPool) -> None:
    assert not harmless(pool, database, ATTACKS[name], GOLD).is_ok


@pytest.mark.parametrize("name", DUCKDB_ATTACKS)
def test_attack_on_duckdb_harms_nobody(name: str, duck: Path, pool: SandboxPool) -> None:
    sql = DUCKDB_ATTACKS[name].replace("{folder}", str(duck.parent))
    assert not harmless(pool, duck, sql, "SELECT a FROM t").is_ok


OWN_SIZES = {
    "wide table": ("CREATE TABLE t ({columns})", "SELECT c1000 FROM t"),
    "deep view": ("CREATE TABLE t (a INT); CREATE VIEW v AS SELECT {deep} AS k", "SELECT k FROM v"),
    "deep column": ("CREATE TABLE t (a INT, k INT AS (a + {deep}))", "SELECT k FROM t"),
    "deep check": ("CREATE TABLE t (a INT CHECK (a + {deep} > 0))", "SELECT a FROM t"),
    "long union": ("CREATE TABLE t (a INT); CREATE VIEW v AS {union}", "SELECT a FROM v"),
    "long text": ("CREATE TABLE t (a TEXT DEFAULT '{long}')", "SELECT a FROM t"),
}
LOWER = Limits(max_columns=1_000, max_expression_depth=200, max_compound=100)
PIECES = {
    "{columns}": ", ".join(f"c{number} INT" for number in range(1001)),
    "{deep}": "1 + " * 500 + "1",
    "{union}": " UNION ALL ".join(["SELECT 1 AS a"] * 300),
    "{long}": "x" * 300_000,
}


@pytest.mark.parametrize("name", OWN_SIZES)
def test_our_limits_bind_predictions_and_not_the_databases_own_schema(name: str, tmp_path: Path) -> None:
    script, gold = OWN_SIZES[name]
    for mark, text in PIECES.items():
        script = script.replace(mark, text)
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as connection:
        connection.executescript(f"{script}; CREATE TABLE other (z INT)")
    jobs = [Job(str(tmp_path / "x.sqlite"), sql) for sql in (gold, "SELECT z FROM other", "SELECT " + "1 + " * 1_500 + "1")]
    engine = SqliteEngine(LOWER)
    assert [engine.execute(job)[0] for job in jobs] == [ResultKind.OK, ResultKind.OK, ResultKind.ERROR]


def test_a_view_that_is_broken_raises_no_limit(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as connection:
        connection.executescript("CREATE VIEW broken AS SELECT * FROM gone; CREATE TABLE t (a INT)")
    for extra, kind in ((150, ResultKind.OK), (250, ResultKind.ERROR)):
        job = Job(str(tmp_path / "x.sqlite"), f"SELECT {'1 + ' * extra}1 FROM t")
        assert SqliteEngine(LOWER).execute(job)[0] is kind


def test_a_deep_view_of_duckdb_can_be_read(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "x.duckdb")) as connection:
        connection.execute(f"CREATE VIEW v AS SELECT {PIECES['{deep}']} AS k")
        connection.execute("CREATE TABLE t (a INT)")
    jobs = [Job(str(tmp_path / "x.duckdb"), sql) for sql in ("SELECT k FROM v", "SELECT " + "1 + " * 1_500 + "1")]
    engine = DuckdbEngine(LOWER)
    assert [engine.execute(job)[0] for job in jobs] == [ResultKind.OK, ResultKind.ERROR]
