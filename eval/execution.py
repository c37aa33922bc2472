"""Pairs of gold and predicted SQL on a database in; how each prediction ended, and whether its result is the same, out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.metrics.soft_f1 import soft_f1
from eval.metrics.ties import opposite_ties
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.config.digests import FileDigests
from kidcore.sql.database import Database, database_of
from kidcore.sql.lexer import is_ordered, mend_operators, mend_year, strip_distinct
from kidcore.sql.results import is_vacuous, same_bag, same_set
from kidcore.sql.sandbox.job import Job, Limits, QueryResult, ResultKind
from kidcore.sql.sandbox.pool import SandboxPool

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total)."""
Parts = Callable[[str], ProgressCallback]
"""Called with the name of a part of the work as it begins; gives what takes note of how far that is."""


GoldQuery = tuple[Database, str]
"""A database and SQL for it."""


@dataclass(frozen=True)
class Pair:
    """A gold and a predicted query on one database, which may be given as its file."""

    gold_sql: str
    pred_sql: str
    database: Database | Path

    @cached_property
    def on(self) -> Database:
        """The database."""
        return database_of(self.database)


@dataclass(frozen=True)
class Gold:
    """A gold query's result, kept for every prediction compared with it."""

    result: QueryResult
    ordered: bool
    rests_on_ties: bool

    @cached_property
    def is_vacuous(self) -> bool:
        """Whether wrong SQL may well give the same."""
        return is_vacuous(self.result.rows)


@dataclass(frozen=True)
class Comparison:
    """How one Pair came out. With `gold.result` not ok, the prediction was not run and says nothing."""

    gold: Gold
    kind: ResultKind
    ex_bag: bool
    ex_set: bool
    soft_f1: float | None
    message: str
    seconds: float


class GoldCache:
    """Results of gold queries by (database digest, SQL), so that each runs once however many predictions there are."""

    def __init__(self, settings: EvalSettings, sandbox: SandboxSettings | None = None) -> None:
        self.settings = settings
        self.sandbox = sandbox or SandboxSettings()
        self._golds: dict[tuple[str, str], Gold] = {}
        self._digests = FileDigests(None)

    def fill(self, queries: Iterable[GoldQuery], check_ties: bool, progress: ProgressCallback | None = None) -> None:
        """Execute the gold queries not seen yet, in worker processes that run nothing else; `progress` is told of these."""
        wanted = [query for query, key in self._keys(queries).items() if key not in self._golds]
        if not wanted:
            return
        sandbox = self.sandbox
        directions = (False, True) if check_ties else (False,)
        with SandboxPool(limits_of(self.settings, sandbox, sandbox.gold_timeout_s), sandbox.workers) as pool:
            jobs = (database.job(sql, reverse=reverse) for database, sql in wanted for reverse in directions)
            results = pool.run(jobs)
            found: dict[GoldQuery, list[QueryResult]] = {}
            for done, query in enumerate(wanted, 1):
                found[query] = [next(results) for _ in directions]
                if progress:
                    progress(done, len(wanted))
            torn = _breaks_of_ties(pool, {query: pair[0] for query, pair in found.items()}) if check_ties else set()
        for query, key in self._keys(found).items():
            pair, ordered = found[query], is_ordered(query[1], query[0].dialect)
            ties = check_ties and (query in torn or _differs(pair[0], pair[1], ordered))
            self._golds[key] = Gold(pair[0], ordered, ties)

    def get(self, queries: Iterable[GoldQuery]) -> dict[GoldQuery, Gold]:
        """The results of queries that were filled in."""
        return {query: self._golds[key] for query, key in self._keys(queries).items()}

    def _keys(self, queries: Iterable[GoldQuery]) -> dict[GoldQuery, tuple[str, str]]:
        """What each distinct query is kept under; every database is looked at once, not once a query."""
        distinct = dict.fromkeys(queries)
        digests = {database: self._digest(database) for database in {database for database, _sql in distinct}}
        return {(database, sql): (digests[database], sql) for database, sql in distinct}

    def _digest(self, database: Database) -> str:
        """The content's digest; a file is read again only where its time or size changed."""
        return f"{database.fault} {database.path}" if database.fault else database.digest(self._digests)


def compare_results(
    pairs: Sequence[Pair], golds: GoldCache, progress: ProgressCallback | None = None, check_ties: bool = True
) -> list[Comparison]:
    """Execute and compare pairs, in order. Golds run first; predictions run in processes that no gold runs in.

    DISTINCT is stripped from both sides for `ex_bag` and `ex_set` alike where the cache's settings say so.
    """
    settings = golds.settings
    queries = [(pair.on, gold_text(pair.gold_sql, settings, pair.on.dialect)) for pair in pairs]
    golds.fill(queries, check_ties and settings.check_ties)
    comparisons: list[Comparison | None] = [None] * len(pairs)
    waiting: list[tuple[int, Gold]] = []
    known = golds.get(queries)
    for number, query in enumerate(queries):
        gold = known[query]
        if gold.result.is_ok:
            waiting.append((number, gold))
        else:
            comparisons[number] = Comparison(gold, ResultKind.ERROR, False, False, None, gold.result.message, 0.0)
    jobs = (_pred_job(pairs[number], settings, (number, gold)) for number, gold in waiting)
    with SandboxPool(limits_of(settings, golds.sandbox, golds.sandbox.timeout_s), golds.sandbox.workers) as pool:
        for done, result in enumerate(pool.run(jobs), 1):
            number, gold = result.key
            comparisons[number] = _compare(gold, result, settings.soft_f1)
            if progress:
                progress(done, len(waiting))
    return [comparison for comparison in comparisons if comparison is not None]


def _pred_job(pair: Pair, settings: EvalSettings, key: Any) -> Job:
    return pair.on.job(pred_text(pair.pred_sql, settings, pair.on.dialect), key)


def limits_of(settings: EvalSettings, sandbox: SandboxSettings, timeout_s: float) -> Limits:
    """The sandbox limits that the settings ask for."""
    return Limits(timeout_s=timeout_s, memory_mib=sandbox.memory_mib, max_steps=settings.max_steps)


def _compare(gold: Gold, pred: QueryResult, wants_soft: bool) -> Comparison:
    bag = same = False
    soft = 0.0
    if pred.is_ok:
        # Equal bytes are equal rows: most correct predictions are settled without decoding anything.
        if pred.payload == gold.result.payload:
            bag = same = True
            soft = 1.0
        else:
            bag = pred.num_rows == gold.result.num_rows and same_bag(gold.result.rows, pred.rows, gold.ordered)
            same = same_set(gold.result.rows, pred.rows)
            soft = soft_f1(gold.result.rows, pred.rows) if wants_soft else 0.0
    return Comparison(gold, pred.kind, bag, same, soft if wants_soft else None, pred.message, pred.seconds)


def _breaks_of_ties(pool: SandboxPool, results: dict[GoldQuery, QueryResult]) -> set[GoldQuery]:
    """The queries whose result changes with the order in which their ORDER BY leaves equal rows."""
    variants = {
        query: pair
        for query, result in results.items()
        if result.is_ok and (pair := opposite_ties(query[1], result.num_columns, query[0].dialect)) is not None
    }
    answers = pool.run(database.job(sql) for (database, _sql), pair in variants.items() for sql in pair)
    return {query for query in variants if _differs(next(answers), next(answers), is_ordered(query[1], query[0].dialect))}


def _differs(result: QueryResult, reversed_result: QueryResult, ordered: bool) -> bool:
    if not (result.is_ok and reversed_result.is_ok):
        return False
    return result.payload != reversed_result.payload and not same_bag(result.rows, reversed_result.rows, ordered)


def gold_text(sql: str, settings: EvalSettings, dialect: str = "sqlite") -> str:
    """The gold as it is executed."""
    return _mended(sql, settings, dialect)


def pred_text(sql: str, settings: EvalSettings, dialect: str = "sqlite") -> str:
    """The prediction as it is executed."""
    # One that is too long is refused as it is.
    return sql if len(sql) > Limits.max_sql_bytes else _mended(sql, settings, dialect)


def _mended(sql: str, settings: EvalSettings, dialect: str) -> str:
    sql = mend_year(mend_operators(sql, dialect), dialect) if settings.mend_operators else sql
    return sql if settings.keep_distinct else strip_distinct(sql, dialect)
