"""DuckDB databases in the sandbox: the same rules as for SQLite, and the same verdicts."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from eval.databases import Databases
from eval.execution import GoldCache
from eval.verdicts import VerdictKind, judge, judge_one
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.sql.datasets import Example
from kidcore.sql.sandbox.duckdb_values import untagged
from kidcore.sql.sandbox.job import Job, Limits, ResultKind
from kidcore.sql.sandbox.pool import SandboxPool
from tests.eval.attacks import peaks_mib, within_a_second

LIMITS = Limits(timeout_s=1.0, memory_mib=512)
GOLD = "SELECT name FROM singer WHERE country = 'France'"
ATTACKS = {
    "delete": "DELETE FROM singer",
    "update returning": "UPDATE singer SET country = 'France' RETURNING name",
    "insert": "INSERT INTO singer VALUES (99, 'x', 'France', 1)",
    "with delete": "WITH t AS (DELETE FROM singer RETURNING *) SELECT * FROM t",
    "drop": "DROP TABLE singer",
    "create": "CREATE TABLE evil (a INTEGER)",
    "create temp": "CREATE TEMP TABLE singer AS SELECT 'x' AS name",
    "create temp pivot": "CREATE TEMP TABLE t AS PIVOT singer ON country USING count(*)",
    "copy pivot": "COPY (PIVOT singer ON country USING count(*)) TO '{folder}/evil.csv'",
    "pivot and delete": "WITH t AS (PIVOT singer ON country USING count(*)) DELETE FROM singer",
    "create macro": "CREATE MACRO evil() AS 1",
    "copy to": "COPY singer TO '{folder}/evil.csv'",
    "copy from": "COPY singer FROM '/etc/passwd'",
    "export": "EXPORT DATABASE '{folder}/evil'",
    "attach": "ATTACH '{folder}/evil.duckdb'",
    "attach writable self": "ATTACH '{database}' AS again",
    "read csv": "SELECT * FROM read_csv('/etc/passwd')",
    "read text": "SELECT * FROM read_text('/etc/passwd')",
    "read blob": "SELECT * FROM read_blob('/etc/passwd')",
    "sniff csv": "SELECT * FROM sniff_csv('/etc/passwd')",
    "file as table": "SELECT * FROM '/etc/passwd.csv'",
    "list files": "SELECT * FROM glob('/etc/*')",
    "python object": "SELECT * FROM job",
    "environment": "SELECT getenv('PATH')",
    "install": "INSTALL httpfs",
    "load": "LOAD '{folder}/evil.so'",
    "set": "SET threads = 8",
    "set memory": "SET memory_limit = '100GB'",
    "unlock": "SET lock_configuration = false",
    "reset": "RESET ALL",
    "pragma": "PRAGMA enable_external_access",
    "checkpoint": "CHECKPOINT",
    "vacuum": "VACUUM",
    "begin": "BEGIN TRANSACTION",
    "prepare": "PREPARE v AS SELECT 1",
    "two statements": "SELECT 1; DELETE FROM singer",
    "two readings": f"{GOLD}; SELECT 1",
    "use": "USE memory",
    "call": "CALL force_checkpoint()",
    "secret": "CREATE SECRET evil (TYPE s3)",
    "endless": "WITH RECURSIVE t (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM t) SELECT COUNT(*) FROM t",
    "cross join": "SELECT COUNT(*) FROM range(1000000) a, range(1000000) b, range(1000) c WHERE a.range + b.range <> c.range",
    "cross join returned": "SELECT * FROM range(1000000) a, range(1000000) b",
    "sorted": "SELECT a.range || 'x' AS k FROM range(3000) a, range(10000) b ORDER BY k DESC",
    "repeat bomb": "SELECT repeat('x', 2000000000)",
    "list bomb": "SELECT list(range) FROM range(1000000000)",
    "deep": "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    "ten megabytes": "SELECT '" + "x" * 10_000_000 + "'",
    "nul": "SELECT 1\0",
    "half a character": "SELECT '\ud83d'",
    "empty": ";",
    "comment": "-- nothing",
    "garbage": "I think the answer is 42.",
}
MUST_BE_REFUSED = {
    "delete",
    "insert",
    "with delete",
    "drop",
    "copy to",
    "create temp pivot",
    "copy pivot",
    "pivot and delete",
    "attach",
    "read csv",
    "set",
    "two readings",
    "half a character",
    "begin",
    "install",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("duck") / "world.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE singer (id INTEGER PRIMARY KEY, name VARCHAR, country VARCHAR, fee DECIMAL(6, 2))")
        connection.execute(
            "INSERT INTO singer "
            "SELECT range, 'Singer ' || range, ['France', 'Peru', 'Japan'][1 + range % 3], range / 4 FROM range(60)"
        )
    return path


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    with SandboxPool(LIMITS, workers=1) as pool:
        yield pool


def attack(name: str, world: Path) -> str:
    return ATTACKS[name].replace("{folder}", str(world.parent)).replace("{database}", str(world))


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_harms_nobody(name: str, world: Path, pool: SandboxPool) -> None:
    digest = hashlib.sha256(world.read_bytes()).digest()
    gold = pool.execute(Job(str(world), GOLD))
    result = within_a_second(pool, Job(str(world), attack(name, world)))
    assert result.kind is not ResultKind.OK
    assert name not in MUST_BE_REFUSED or result.kind is ResultKind.REFUSED
    assert hashlib.sha256(world.read_bytes()).digest() == digest
    assert [path.name for path in world.parent.iterdir()] == [world.name]
    after = pool.execute(Job(str(world), GOLD))
    assert (after.kind, after.rows, len(after.rows)) == (ResultKind.OK, gold.rows, 20)


def test_memory_stays_bounded(world: Path) -> None:
    hogs = [name for name in ATTACKS if name in ("endless", "sorted", "repeat bomb", "list bomb", "cross join returned")]
    peaks = peaks_mib(LIMITS, [Job(str(world), attack(name, world)) for name in hogs])
    # DuckDB itself takes about 100 MiB.
    assert 60 < max(peaks) < LIMITS.memory_mib + 100


def test_values_compare_by_content(world: Path, pool: SandboxPool) -> None:
    sql = "SELECT DATE '2020-01-02', 1.50::DECIMAL(5, 2), 2::HUGEINT, 'nan'::DOUBLE, [1, NULL], {'a': 1}, NULL, TRUE, 'x'::BLOB"
    first, second = pool.execute(Job(str(world), sql)), pool.execute(Job(str(world), sql))
    assert first.is_ok
    assert first.rows == second.rows
    assert len(set(first.rows)) == 1
    assert first.rows[0][1:3] == (1.5, 2)


def test_times_with_a_zone_are_compared_by_content_and_kept_in_order(world: Path, pool: SandboxPool) -> None:
    """Python values of them would need a package that DuckDB doesn't bring."""
    day = "TIMESTAMPTZ '2024-01-01 00:00:00+00' + to_days(range::INT)"
    columns = f"{day} AS a, range, NULL::TIMESTAMPTZ AS a, {{'at': {day}}} AS s"
    sql = f"SELECT {columns} FROM range(30) ORDER BY range % 7 DESC, range -- x"
    result = pool.execute(Job(str(world), f"{sql}\n;"))
    assert result.is_ok, result.message
    assert [row[1] for row in result.rows] == sorted(range(30), key=lambda n: (-(n % 7), n))
    assert result.rows[0] == (("datetime", "2024-01-07 00:00:00+00"), 6, None, ("datetime", "{'at': '2024-01-07 00:00:00+00'}"))
    earlier = pool.execute(Job(str(world), "SELECT TIMESTAMPTZ '2024-01-07 02:00:00+02'"))
    assert earlier.rows == [(("datetime", "2024-01-07 00:00:00+00"),)]
    assert pool.execute(Job(str(world), "FROM (VALUES (TIMESTAMPTZ '2024-01-07 02:00:00+02'))")).rows == earlier.rows


@pytest.mark.parametrize("end", ["; -- the times", " -- a; b", ";;\n/* ; */ ;"])
def test_columns_are_read_as_text_whatever_the_statement_ends_in(end: str, world: Path, pool: SandboxPool) -> None:
    result = pool.execute(Job(str(world), "SELECT TIMESTAMPTZ '2024-01-07 00:00:00+00', INTERVAL 3 DAY, '; --'" + end))
    assert result.rows == [(("datetime", "2024-01-07 00:00:00+00"), ("interval", "3 days 0:00:00"), "; --")], result.message


@pytest.mark.parametrize(
    "sql",
    [
        "PIVOT (SELECT country FROM singer) ON country USING count(*)",
        "-- how many\nFROM (PIVOT_WIDER (SELECT country FROM singer) ON country USING count(*))",
        "(WITH p AS (PIVOT (SELECT country FROM singer) ON country USING count(*)) SELECT France, Japan, Peru FROM p);",
    ],
)
def test_a_pivot_that_does_not_name_its_columns_is_read(sql: str, world: Path, pool: SandboxPool) -> None:
    result = pool.execute(Job(str(world), sql))
    assert (result.kind, result.rows) == (ResultKind.OK, [(20, 20, 20)]), result.message
    times = "PIVOT (SELECT country, TIMESTAMPTZ '2024-01-07 00:00:00+00' AS a FROM singer) ON country USING max(a)"
    assert pool.execute(Job(str(world), times)).rows == [(("datetime", "2024-01-07 00:00:00+00"),) * 3]


BIG = "12345678901234567890"


@pytest.mark.parametrize(
    ("first", "second", "are_same"),
    [
        (f"{BIG}.12::DECIMAL(38, 2)", f"{BIG}.13::DECIMAL(38, 2)", False),
        (f"{BIG}.12::DECIMAL(38, 2)", f"{BIG}.120::DECIMAL(38, 3)", True),
        (f"[{BIG}.12::DECIMAL(38, 2)]", f"[{BIG}.13::DECIMAL(38, 2)]", False),
        (f"{BIG}.00::DECIMAL(38, 2)", f"{BIG}::HUGEINT", True),
        ("1.5::DECIMAL(5, 2)", "1.5::DOUBLE", True),
        ("0.1::DECIMAL(5, 2)", "0.1::DOUBLE", True),
        ("-0.10::DECIMAL(5, 2)", "-0.1::DECIMAL(3, 1)", True),
        ("TIMESTAMP_NS '2024-01-01 00:00:00.123456789'", "TIMESTAMP_NS '2024-01-01 00:00:00.123456788'", False),
        ("TIMESTAMP_NS '2024-01-01 00:00:00.123456789'", "TIMESTAMP '2024-01-01 00:00:00.123456'", False),
        ("TIMESTAMP_NS '2024-01-01 00:00:00.120'", "TIMESTAMP '2024-01-01 00:00:00.12'", True),
        ("TIMESTAMP_NS '2024-01-01'", "TIMESTAMP '2024-01-01'", True),
        ("[TIMESTAMP_NS '2024-01-01 00:00:00.123456789']", "[TIMESTAMP_NS '2024-01-01 00:00:00.123456788']", False),
        ("TIME_NS '01:02:03.123456789'", "TIME_NS '01:02:03.123456788'", False),
        ("TIME_NS '01:02:03'", "TIME '01:02:03'", True),
        ("TIMESTAMPTZ_NS '2024-01-01 00:00:00.5+00'", "TIMESTAMPTZ '2024-01-01 01:00:00.5+01'", True),
        ("INTERVAL 1 MONTH", "INTERVAL 30 DAY", False),
        ("{'a': INTERVAL 1 MONTH}", "{'a': INTERVAL 30 DAY}", False),
        ("INTERVAL 14 MONTH", "INTERVAL '1 year 2 months'", True),
        ("INTERVAL 1 MONTH", "-INTERVAL (-1) MONTH", True),
        ("INTERVAL 26 HOUR", "TIMESTAMP '2024-01-02 02:00:00' - TIMESTAMP '2024-01-01'", True),
        ("INTERVAL '-0.5 seconds'", "INTERVAL '0.5 seconds'", False),
        ("INTERVAL '-0.5 seconds'", "-INTERVAL '500 milliseconds'", True),
        ("'INTERVAL'::ENUM('INTERVAL', 'x')", "'INTERVAL'", True),
        ("NULL::INTERVAL", "NULL::TIMESTAMP_NS", True),
    ],
)
def test_values_are_told_apart_by_content_and_not_by_type(
    first: str, second: str, are_same: bool, world: Path, pool: SandboxPool
) -> None:
    results = [pool.execute(Job(str(world), f"SELECT {sql}")) for sql in (first, second)]
    assert all(result.is_ok for result in results), results
    assert (results[0].rows == results[1].rows) is are_same


def test_values_are_shown_without_their_tags(world: Path, pool: SandboxPool) -> None:
    sql = (
        "SELECT DATE '2024-01-02', TIMESTAMPTZ '2024-01-02 03:04:05+00', [DATE '2024-01-02', NULL], {'b': [1.5], 'a': 'x'}, "
        f"MAP {{'k': TIME '01:02:03'}}, {BIG}.12::DECIMAL(38, 2), INTERVAL 1 MONTH, '\\xAA'::BLOB, NULL, 'nan'::DOUBLE"
    )
    (row,) = pool.execute(Job(str(world), sql)).rows
    shown = [untagged(value) for value in row]
    assert math.isnan(shown.pop())
    assert shown == [
        "2024-01-02",
        "2024-01-02 03:04:05+00",
        ["2024-01-02", None],
        {"a": "x", "b": [1.5]},
        {"k": "01:02:03"},
        f"{BIG}.12",
        "1 months 0:00:00",
        b"\xaa",
        None,
    ]


def test_verdicts_in_duckdbs_dialect(world: Path) -> None:
    gold = "SELECT country, COUNT(*) AS n FROM singer GROUP BY ALL ORDER BY ALL"
    settings = EvalSettings(exact_match=False)
    assert judge_one(gold, "SELECT country, COUNT(*) FROM singer GROUP BY country ORDER BY 1", world, settings).ex_bag
    assert not judge_one(gold, "SELECT country, COUNT(*) FROM singer GROUP BY country ORDER BY 1 DESC", world, settings).ex_bag
    examples = [Example(name, "world", "", GOLD) for name in ("right", "wrong", "refused")]
    predictions = {
        "right": "FROM singer SELECT name WHERE country = 'France'",
        "wrong": "SELECT 1",
        "refused": "DROP TABLE singer",
    }
    verdicts = judge(
        examples, predictions, Databases(lambda _db_id: world), GoldCache(EvalSettings(), SandboxSettings(workers=2))
    )
    assert [verdict.kind for verdict in verdicts] == [VerdictKind.CORRECT, VerdictKind.WRONG, VerdictKind.REFUSED]
