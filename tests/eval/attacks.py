"""Hostile predictions, by name. `{folder}` is a folder the test watches, `{database}` the database under attack."""

import contextlib
import re
import threading
from pathlib import Path

from kidcore.sql.sandbox.job import Job, Limits, QueryResult
from kidcore.sql.sandbox.pool import SandboxPool

_DEEP = 3_000

WRITES = {
    "delete": "DELETE FROM singer",
    "delete all but gold": "DELETE FROM singer WHERE country <> 'France'",
    "insert": "INSERT INTO singer VALUES (99, 'x', 'France', 1, 1)",
    "insert select": "INSERT INTO singer SELECT id + 100, name, country, age, net FROM singer",
    "insert returning": "INSERT INTO singer VALUES (98, 'x', 'France', 1, 1) RETURNING name",
    "replace": "REPLACE INTO singer VALUES (1, 'x', 'France', 1, 1)",
    "upsert": "INSERT INTO singer VALUES (1, 'x', 'y', 1, 1) ON CONFLICT (id) DO UPDATE SET name = 'z'",
    "update": "UPDATE singer SET country = 'France'",
    "update returning": "UPDATE singer SET age = 0 RETURNING name",
    "delete returning": "DELETE FROM singer RETURNING name",
    "with delete": "WITH t AS (SELECT 1) DELETE FROM singer",
    "with insert": "WITH t (a) AS (VALUES (97)) INSERT INTO singer (id) SELECT a FROM t",
    "with update returning": "WITH t AS (SELECT 1) UPDATE singer SET age = 1 RETURNING name",
    "drop table": "DROP TABLE singer",
    "drop view": "DROP VIEW IF EXISTS elder",
    "create table": "CREATE TABLE evil (a)",
    "create table as": "CREATE TABLE evil AS SELECT * FROM singer",
    "create index": "CREATE INDEX evil ON singer (name)",
    "create view": "CREATE VIEW evil AS SELECT 1",
    "create trigger": "CREATE TRIGGER evil AFTER INSERT ON singer BEGIN DELETE FROM singer; END",
    "create virtual table": "CREATE VIRTUAL TABLE evil USING fts5(a)",
    "alter rename": "ALTER TABLE singer RENAME TO victim",
    "alter add": "ALTER TABLE singer ADD COLUMN evil TEXT",
    "alter drop": "ALTER TABLE singer DROP COLUMN name",
    "reindex": "REINDEX",
    "analyze": "ANALYZE",
    "vacuum": "VACUUM",
    "vacuum into": "VACUUM INTO '{folder}/copy.sqlite'",
    "write the schema table": "UPDATE sqlite_master SET sql = 'CREATE TABLE singer (name)' WHERE name = 'singer'",
    "delete from the schema table": "DELETE FROM sqlite_master",
    "write the sequence": "INSERT INTO sqlite_sequence VALUES ('a', 1)",
}
ESCAPES = {
    "attach new file": "ATTACH '{folder}/evil.sqlite' AS evil",
    "attach memory": "ATTACH ':memory:' AS evil",
    "attach writable self": "ATTACH 'file:{database}?mode=rw' AS evil",
    "detach": "DETACH main",
    "load_extension": "SELECT load_extension('{folder}/evil.so')",
    "load_extension with entry": "SELECT load_extension('libc.so.6', 'system')",
    "readfile": "SELECT readfile('/etc/passwd')",
    "writefile": "SELECT writefile('{folder}/evil', 'x')",
    "edit": "SELECT edit('x', 'touch {folder}/evil')",
    "tokenizer pointer": "SELECT fts3_tokenizer('simple', x'4141414141414141')",
    "pragma journal mode": "PRAGMA journal_mode = WAL",
    "pragma query_only off": "PRAGMA query_only = OFF",
    "pragma writable_schema": "PRAGMA writable_schema = ON",
    "pragma user_version": "PRAGMA user_version = 7",
    "pragma temp_store_directory": "PRAGMA temp_store_directory = '{folder}'",
    "pragma heap limit": "PRAGMA hard_heap_limit = 0",
    "pragma table function": "SELECT * FROM pragma_user_version",
    "pragma table function with argument": "SELECT * FROM pragma_table_info('singer')",
    "temp table": "CREATE TEMP TABLE singer AS SELECT 'x' AS name",
    "temp view shadows gold": "CREATE TEMP VIEW singer AS SELECT 'x' AS name, 'France' AS country",
    "temp trigger": "CREATE TEMP TRIGGER evil AFTER DELETE ON singer BEGIN SELECT 1; END",
    "begin": "BEGIN",
    "begin exclusive": "BEGIN EXCLUSIVE",
    "savepoint": "SAVEPOINT evil",
    "commit": "COMMIT",
    "rollback": "ROLLBACK",
    "release": "RELEASE evil",
}
SEVERAL = {
    "gold then delete": "SELECT name FROM singer WHERE country = 'France'; DELETE FROM singer",
    "gold then select": "SELECT name FROM singer WHERE country = 'France'; SELECT 1",
    "delete then gold": "DELETE FROM singer; SELECT name FROM singer WHERE country = 'France'",
    "begin then gold": "BEGIN; SELECT name FROM singer WHERE country = 'France'",
    "hidden by a comment": "SELECT name FROM singer WHERE country = 'France' /* ; */ ; DROP TABLE singer --",
}
HOGS = {
    "endless cte, streamed": "WITH RECURSIVE t (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM t) SELECT a FROM t",
    "endless cte, counted": "WITH RECURSIVE t (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM t) SELECT COUNT(*) FROM t",
    "endless cte, distinct": "WITH RECURSIVE t (a) AS (SELECT 1 UNION SELECT a + 1 FROM t) SELECT MAX(a) FROM t",
    "endless cte, growing": "WITH RECURSIVE t (a) AS (SELECT 'x' UNION ALL SELECT a || a FROM t) SELECT a FROM t",
    "printf bomb": "SELECT printf('%.*c', 1000000000, 'x')",
    "printf width bomb": "SELECT printf('%1000000000d', 1)",
    "zeroblob bomb": "SELECT zeroblob(1000000000)",
    "zeroblob times rows": "SELECT hex(zeroblob(8000000)) FROM singer, concert",
    "randomblob bomb": "SELECT randomblob(1000000000)",
    "replace bomb": "SELECT replace(hex(zeroblob(5000)), '0', hex(zeroblob(5000)))",
    "group_concat bomb": "SELECT group_concat(hex(zeroblob(100000))) FROM singer a, singer b, singer c",
    "json bomb": "SELECT json_group_array(hex(zeroblob(100000))) FROM singer a, singer b, singer c",
    "cross join, counted": "SELECT COUNT(*) FROM concert a, concert b, concert c, concert d, concert e, concert f",
    "cross join, returned": "SELECT * FROM concert a, concert b, concert c, concert d, concert e, concert f",
    "cross join, sorted": "SELECT * FROM concert a, concert b, concert c, concert d ORDER BY a.venue || b.venue || c.venue, d.id",
    "cross join, distinct": "SELECT DISTINCT a.id || b.id || c.id || d.id FROM concert a, concert b, concert c, concert d",
    "wide result": "SELECT " + ", ".join(["*"] * 400) + " FROM singer",
    "like bomb": "SELECT '" + "a" * 9_000 + "' LIKE '" + "%a" * 4_000 + "b'",
    "glob bomb": "SELECT COUNT(*) FROM concert a, concert b WHERE '" + "a" * 9_000 + "' GLOB '" + "*a" * 4_000 + "b'",
    "ten megabytes": "SELECT '" + "x" * 10_000_000 + "'",
    "ten megabytes of terms": "SELECT " + "1 + " * 2_500_000 + "1",
    "ten megabytes of comment": "/*" + "x" * 10_000_000 + "*/ SELECT name FROM singer WHERE country = 'France'",
    "deep parentheses": "SELECT " + "(" * _DEEP + "1" + ")" * _DEEP,
    "deep sum": "SELECT " + "1 + " * _DEEP + "1",
    "deep subqueries": "SELECT * FROM " + "(SELECT * FROM " * 300 + "singer" + ")" * 300,
    "deep case": "SELECT " + "CASE WHEN 1 THEN " * 500 + "1" + " END" * 500,
    "deep conditions": "SELECT name FROM singer WHERE id IN ("
    + "SELECT id FROM singer WHERE id IN (" * 2_000
    + "1"
    + ")" * 2_001,
    "long compound": " UNION ALL ".join(["SELECT name FROM singer"] * 600),
    "many columns": "SELECT " + ", ".join(["1"] * 5_000),
    "many joins": "SELECT COUNT(*) FROM " + ", ".join(f"singer s{n}" for n in range(70)),
    "many ctes": "WITH " + ", ".join(f"t{n} AS (SELECT * FROM singer)" for n in range(900)) + " SELECT * FROM t899, t1, t2, t3",
    "doubling ctes": "WITH a AS (SELECT 1 FROM concert, singer), b AS (SELECT 1 FROM a x, a y) SELECT COUNT(*) FROM b x, b y",
}
GARBAGE = {
    "empty": "",
    "blank": " \n\t ",
    "semicolon": ";",
    "comment only": "-- SELECT name FROM singer",
    "open comment": "/* SELECT name FROM singer",
    "open quote": "SELECT 'name FROM singer",
    "not sql": "I think the answer is 42.",
    "nul byte": "SELECT name FROM singer WHERE country = 'France'\0",
    "nul byte first": "\0SELECT name FROM singer",
    "nul byte before a write": "SELECT 1 \0; DELETE FROM singer",
    "lone surrogate": "SELECT '\ud800'",
    "unbound parameter": "SELECT name FROM singer WHERE country = ?",
    "named parameter": "SELECT name FROM singer WHERE country = :x",
    "unknown table": "SELECT * FROM nowhere",
    "unknown function": "SELECT sleep(100)",
    "regexp": "SELECT name FROM singer WHERE name REGEXP '(a+)+b'",
    "explain": "EXPLAIN SELECT name FROM singer WHERE country = 'France'",
    "explain a write": "EXPLAIN DELETE FROM singer",
    "overflow": "SELECT abs(-9223372036854775808)",
    "invalid utf-8": "SELECT CAST(x'ff41fe' AS TEXT)",
    "invalid utf-8 rows": "SELECT name FROM singer WHERE id = 61",
    "invalid utf-8 name": 'SELECT 1 AS "\udcff"',
    "shadowing cte": "WITH singer AS (SELECT 'x' AS name, 'France' AS country) SELECT name FROM singer WHERE country = 'France'",
}
ATTACKS = {**WRITES, **ESCAPES, **SEVERAL, **HOGS, **GARBAGE}
MUST_BE_REFUSED = {*WRITES, *SEVERAL} - {
    "reindex",  # nothing to rebuild here: it runs, and returns no rows
    "write the schema table",
    "delete from the schema table",
    "write the sequence",
}
"""Attacks whose verdict must be `refused`; SQLite itself turns down the others, or they hit a limit."""


def within_a_second(pool: SandboxPool, job: Job) -> QueryResult:
    """The job's result, having checked that its run, or the longer of its runs, ended within a second of the deadline.

    Counted from when the worker has the statement and is ready. A machine busy with other work may lose a few tries.
    """
    result = pool.execute(job)
    for _ in range(4):
        if result.seconds > pool.limits.timeout_s + 1:
            result = pool.execute(job)
    assert result.seconds < pool.limits.timeout_s + 1, f"{result.seconds:.2f} s: {job.sql[:60]}"
    return result


def peaks_mib(limits: Limits, jobs: list[Job]) -> list[int]:
    """The resident memory, MiB, that the workers were seen to reach while they ran `jobs`."""
    peaks: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            for worker in list(pool._workers):
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{worker.process.pid}/status").read_text()
                    peaks.extend(int(kib) // 1024 for kib in re.findall(r"VmHWM:\s+(\d+)", status))

    with SandboxPool(limits, workers=2) as pool:
        watcher = threading.Thread(target=watch)
        watcher.start()
        assert len(list(pool.run(jobs))) == len(jobs)
        stop.set()
        watcher.join()
    return peaks
