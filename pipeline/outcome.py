"""Imperfect SQL and its gold in, whether it executes and gives the gold result out.

A stage of its own: executing looks at databases, and a changed database must not send the teacher back to work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from kidcore.sql.database import Database
from kidcore.sql.lexer import is_ordered
from kidcore.sql.results import same_bag
from kidcore.sql.sandbox.job import QueryResult
from kidcore.sql.sandbox.pool import SandboxPool
from kidcore.store.arrow import arrow_table
from kidcore.store.graph import Output, Task
from kidcore.store.schemas import schema_of
from pipeline.context import Context
from pipeline.rewrite import parses
from pipeline.rows import usable


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage on the databases of `context`."""
    return OutcomeStage(context.dataset.database, context.pool(context.config.outcome.max_steps))


@dataclass(frozen=True)
class OutcomeStage:
    """The outcome stage, with what it needs to execute SQL."""

    database: Callable[[str], Database]
    pool: SandboxPool
    queries: str = "rewrite"
    """The stage whose SQL is executed."""
    sql: str = "imperfect_sql"
    """Its column of SQL."""

    def __call__(self, task: Task) -> Output:
        rewrites = task.tables[self.queries]
        db_ids = rewrites.column("db_id").to_pylist()
        gold = usable(task.tables["ingest"]).column("gold_sql").to_pylist()
        imperfect = rewrites.column(self.sql).to_pylist()
        dialects = {db_id: self.database(db_id).dialect for db_id in set(db_ids)}
        parsed = self._parsed(rewrites, imperfect, dialects)
        results = self._execute(db_ids, gold, imperfect, parsed)
        executes, same = [], []
        for db_id, old, new, is_sql in zip(db_ids, gold, imperfect, parsed, strict=True):
            # Unread SQL may have run as another row's gold: what a row says must not depend on the rows beside it.
            result, expected = (results[db_id, new], results[db_id, old]) if is_sql else (None, None)
            executes.append(result is not None and result.is_ok)
            same.append(bool(result and expected and gives_gold(expected, result, old, dialects[db_id])))
        task.advance(len(db_ids))
        table = arrow_table(
            schema_of("outcome"),
            {
                "example_id": rewrites.column("example_id").to_pylist(),
                "db_id": db_ids,
                "view": rewrites.column("view").to_pylist(),
                "executes": executes,
                "same_result": same,
            },
        )
        return Output(table, {"in": len(db_ids), "out": len(db_ids), "execute": sum(executes), "same_result": sum(same)})

    def _parsed(self, rows: pa.Table, texts: list[str], dialects: Mapping[str, str]) -> list[bool]:
        """Whether each text is a query, from the rows where they know."""
        if "parses" in rows.column_names:
            known: list[bool] = rows.column("parses").to_pylist()
            return known
        return [parses(text, dialects[db_id]) for text, db_id in zip(texts, rows.column("db_id").to_pylist(), strict=True)]

    def _execute(
        self, db_ids: list[str], gold: list[str], imperfect: list[str], parsed: list[bool]
    ) -> dict[tuple[str, str], QueryResult]:
        """Results by (database, SQL) of what parses, and of its gold; equal statements run once."""
        statements: dict[tuple[str, str], None] = {}
        for db_id, old, new, is_sql in zip(db_ids, gold, imperfect, parsed, strict=True):
            if is_sql:
                statements |= {(db_id, old): None, (db_id, new): None}
        databases = {db_id: self.database(db_id) for db_id, _sql in statements}
        jobs = [databases[db_id].job(sql, (db_id, sql)) for db_id, sql in statements]
        return {result.key: result for result in self.pool.run(jobs)}


def gives_gold(gold: QueryResult, imperfect: QueryResult, gold_sql: str, dialect: str = "sqlite") -> bool:
    """Whether two results are the same in the sense of `ex_bag`."""
    return gold.is_ok and imperfect.is_ok and same_bag(gold.rows, imperfect.rows, is_ordered(gold_sql, dialect))
