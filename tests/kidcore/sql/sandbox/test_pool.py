"""The sandbox pool on real worker processes: order, limits, deaths, and what a result holds."""

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.databases import Databases
from eval.execution import GoldCache
from eval.verdicts import VerdictKind, judge
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.sql.datasets import Example
from kidcore.sql.sandbox.job import Job, Limits, QueryResult, ResultKind
from kidcore.sql.sandbox.pool import SandboxPool
from kidcore.sql.sandbox.process import WorkerProcess
from tests.eval.worlds import GOLDS, make_world

ENDLESS = "WITH RECURSIVE t (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM t) SELECT COUNT(*) FROM t"
HOG = "SELECT zeroblob(12000000) FROM singer, concert"
KILLED = "WITH RECURSIVE t (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM t) SELECT COUNT(*) FROM t /* to be killed */"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("sandbox"))


def run(world: Path, sqls: list[str], limits: Limits | None = None, workers: int = 2) -> list[QueryResult]:
    with SandboxPool(limits, workers) as pool:
        return list(pool.run(Job(str(world), sql, key) for key, sql in enumerate(sqls)))


def plain_rows(world: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(world)
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def outcome(result: QueryResult) -> tuple[object, ...]:
    """All of a result that may not depend on the clock."""
    return result.key, result.kind, result.payload, result.num_rows, result.num_columns, result.message


def test_rows_are_those_of_sqlite(world: Path) -> None:
    for result, sql in zip(run(world, list(GOLDS)), GOLDS, strict=True):
        assert (result.kind, result.rows) == (ResultKind.OK, plain_rows(world, sql))
        assert result.num_rows == len(result.rows)
        assert result.num_columns == len(result.rows[0])


def test_results_come_in_order_with_their_keys(world: Path) -> None:
    sqls = [f"SELECT {n}" if n % 7 else f"{ENDLESS} WHERE a < {n}" for n in range(200)]
    results = run(world, sqls, Limits(max_steps=20_000), workers=4)
    assert [result.key for result in results] == list(range(200))
    assert [result.rows for result in results if result.is_ok] == [[(n,)] for n in range(200) if n % 7]


def test_a_missing_database_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    (result,) = run(tmp_path / "none.sqlite", ["SELECT 1"])
    assert result.kind is ResultKind.ERROR
    assert list(tmp_path.iterdir()) == []


def test_a_path_with_uri_characters_is_opened(tmp_path: Path) -> None:
    world = make_world(tmp_path / "a?b#c%20 d")
    (result,) = run(world, ["SELECT COUNT(*) FROM singer"])
    assert result.rows == [(61,)]


def test_double_quoted_literals_and_json_tables_work(world: Path) -> None:
    literal, table = run(world, ['SELECT COUNT(*) FROM singer WHERE country = "Peru"', "SELECT value FROM json_each('[1, 2]')"])
    assert literal.rows == plain_rows(world, "SELECT COUNT(*) FROM singer WHERE country = 'Peru'")
    assert table.rows == [(1,), (2,)]


def test_texts_that_are_not_utf8_stay_apart(world: Path) -> None:
    first, second = run(world, ["SELECT CAST(x'ff41' AS TEXT)", "SELECT CAST(x'fe41' AS TEXT)"])
    assert first.is_ok
    assert second.is_ok
    assert first.rows != second.rows


def test_limits_on_rows_bytes_and_text(world: Path) -> None:
    limits = Limits(max_rows=1_000, max_bytes=100_000, max_value_bytes=50_000, max_sql_bytes=500, max_columns=20)
    results = run(
        world,
        [
            "SELECT a.id FROM concert a, concert b LIMIT 1001",
            "SELECT hex(zeroblob(1000)) FROM concert",
            "SELECT hex(zeroblob(60000))",
            "SELECT 1" + " " * 500,
            "SELECT " + ", ".join("1" * 30),
            "SELECT a.id FROM concert a, concert b LIMIT 1000",
        ],
        limits,
    )
    assert [result.kind for result in results] == [
        ResultKind.MEMORY,
        ResultKind.MEMORY,
        ResultKind.REFUSED,
        ResultKind.REFUSED,
        ResultKind.ERROR,
        ResultKind.OK,
    ]


def test_steps_stop_the_same_statements_every_time(world: Path) -> None:
    sqls = [f"{ENDLESS.replace('FROM t)', f'FROM t WHERE a < {n})')}" for n in (10, 300, 700, 1_000, 1_300, 5_000)]
    limits = Limits(max_steps=20_000)
    first = [outcome(result) for result in run(world, sqls, limits, workers=1)]
    assert {kind for _key, kind, *_rest in first} == {ResultKind.OK, ResultKind.TIMEOUT}
    assert [outcome(result) for result in run(world, sqls * 2, limits, workers=3)][: len(sqls)] == first


def test_reverse_shows_what_rests_on_ties(world: Path) -> None:
    with SandboxPool(workers=1) as pool:
        forward, backward = (
            pool.execute(Job(str(world), "SELECT name FROM singer LIMIT 1", reverse=reverse)) for reverse in (False, True)
        )
    assert forward.rows != backward.rows


def test_a_killed_worker_harms_its_own_job_only(world: Path) -> None:
    with SandboxPool(Limits(timeout_s=30), workers=1) as pool, Killer(pool._workers):
        results = list(pool.run(Job(str(world), KILLED if n == 5 else f"SELECT {n}", n) for n in range(12)))
    assert [result.kind for result in results] == [ResultKind.CRASHED if n == 5 else ResultKind.OK for n in range(12)]
    assert [result.runs for result in results] == [2 if n == 5 else 1 for n in range(12)], (
        "the first may have been somebody else's"
    )
    assert all(result.seconds > 0 for result in results)
    assert [result.rows for result in results if result.is_ok] == [[(n,)] for n in range(12) if n != 5]


def test_a_worker_killed_by_something_else_is_not_held_against_its_job(world: Path) -> None:
    with SandboxPool(Limits(), workers=1) as pool:
        assert pool.execute(Job(str(world), "SELECT 1")).is_ok
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)
        assert pool.execute(Job(str(world), "SELECT 2")).rows == [(2,)]


@pytest.mark.slow
def test_a_thousand_verdicts_with_every_tenth_hostile(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hostile row gets the very kind it earns, and all others are as if it weren't there."""
    kinds = {
        ENDLESS: (VerdictKind.TIMEOUT, "more than 2 s"),
        "SELECT printf('%.*c', 2000000000, 'x')": (VerdictKind.TIMEOUT, "more than 2 s"),
        KILLED: (VerdictKind.ERROR, "its process died"),
        HOG: (VerdictKind.ERROR, "needs more than 64 MiB of memory"),
    }
    hang, stuck, killed, hog = kinds
    hostile = [killed, hog] * 50
    hostile[0], hostile[33], hostile[66] = hang, stuck, hang  # few: each takes its time
    right = "SELECT name FROM singer WHERE id = 1 + {} % 60"
    examples = [Example(f"row {n}", "world", "", right.format(n)) for n in range(1_000)]
    sqls = [hostile[n // 10] if n % 10 == 0 else right.format(n) for n in range(1_000)]
    predictions = {f"row {n}": sqls[n] for n in sorted(range(1_000), key=lambda n: n * 7919 % 1_000)}
    started: list[WorkerProcess] = []

    class Noted(WorkerProcess):
        def __init__(self, limits: Limits) -> None:
            super().__init__(limits)
            started.append(self)

    monkeypatch.setattr("kidcore.sql.sandbox.pool.WorkerProcess", Noted)
    golds = GoldCache(EvalSettings(max_steps=0, exact_match=False), SandboxSettings(timeout_s=2, memory_mib=64, workers=2))
    with Killer(started):
        verdicts = judge(examples, predictions, Databases(lambda _db_id: world), golds)
    assert [verdict.example_id for verdict in verdicts] == [f"row {n}" for n in range(1_000)]
    for verdict, sql in zip(verdicts, sqls, strict=True):
        kind, message = kinds.get(sql, (VerdictKind.CORRECT, ""))
        assert (verdict.kind, verdict.prediction) == (kind, sql)
        assert message in verdict.message


def test_stopping_early_leaves_the_pool_usable(world: Path) -> None:
    with SandboxPool(Limits(timeout_s=60), workers=2) as pool:
        jobs = (Job(str(world), sql) for sql in ["SELECT 1", ENDLESS, ENDLESS, "SELECT 2"])
        assert next(iter(pool.run(jobs))).rows == [(1,)]
        started = time.monotonic()
        assert pool.execute(Job(str(world), "SELECT 3")).rows == [(3,)]
        assert time.monotonic() - started < 30


def test_no_worker_outlives_the_pool(world: Path) -> None:
    with SandboxPool(Limits(timeout_s=60), workers=2) as pool:
        results = pool.run(Job(str(world), sql) for sql in ["SELECT 1", ENDLESS, ENDLESS])
        next(results)
        processes = [worker.process for worker in pool._workers]
    assert processes
    assert all(process.poll() is not None for process in processes)


def test_workers_load_nothing_but_the_standard_library() -> None:
    script = (
        "import sys, kidcore.sql.sandbox.worker\n"
        "extra = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names) - {'kidcore', '__main__'}\n"
        "print(sorted(name for name in extra if not name.startswith('_')))"
    )
    root = Path(__file__).parents[4]
    output = subprocess.run([sys.executable, "-S", "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


FRAGMENTS = re.split(
    " ",
    "SELECT DELETE INSERT UPDATE FROM WHERE singer concert name age * ( ) , ; ' \" = < + || UNION ALL WITH RECURSIVE t AS "
    "ORDER BY LIMIT 1 NULL COUNT(*) PRAGMA ATTACH ';--' /* */ CAST(x'ff' AS TEXT) JOIN ON GROUP HAVING BEGIN RETURNING",
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sqls=st.lists(
        st.one_of(
            st.text(max_size=60),
            st.lists(st.sampled_from(FRAGMENTS), max_size=14).map(" ".join),
            st.tuples(st.sampled_from(GOLDS), st.integers(0, 80), st.text(max_size=3)).map(
                lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
            ),
        ),
        max_size=40,
    )
)
def test_any_text_gets_a_result_and_changes_nothing(world: Path, sqls: list[str]) -> None:
    content = world.read_bytes()
    first = run(world, sqls, Limits(max_steps=200_000), workers=2)
    assert [result.key for result in first] == list(range(len(sqls)))
    assert world.read_bytes() == content
    assert sorted(path.name for path in world.parent.iterdir()) == [world.name]
    repeatable = [n for n, sql in enumerate(sqls) if "random" not in sql.lower()]
    second = run(world, sqls, Limits(max_steps=200_000), workers=1)
    assert [outcome(first[n]) for n in repeatable] == [outcome(second[n]) for n in repeatable]


class Killer:
    """Kills, from outside, every worker that has a KILLED job in hand: a crash that no engine can be asked for."""

    def __init__(self, workers: list[WorkerProcess]) -> None:
        """`workers` may grow and shrink meanwhile."""
        self._workers = workers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._hunt)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _hunt(self) -> None:
        while not self._stop.wait(0.01):
            for worker in list(self._workers):
                held = list(worker.held)
                if held and held[0][1].sql == KILLED and worker.is_ready:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.process.pid, signal.SIGKILL)
