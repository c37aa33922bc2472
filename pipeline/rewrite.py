"""Gold, masks and predictions in, imperfect SQL and what it is worth out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import sqlglot
from numpy.typing import NDArray
from sqlglot.errors import SqlglotError

from kidpipe.columns import lists, make_table
from kidpipe.config import RewriteSettings
from kidpipe.graph import Output, Task
from kidpipe.results import is_ordered, same_bag
from kidpipe.sandbox.job import Job, Kind
from kidpipe.sandbox.pool import SandboxPool
from kidpipe.schemas import REWRITE
from pipeline.rows import usable


@dataclass(frozen=True)
class Rewrite:
    """The rewrite stage, with what it needs to read SQL and to execute it."""

    settings: RewriteSettings
    decode: Callable[[list[int]], str]
    database: Callable[[str], Path]
    pool: SandboxPool

    def __call__(self, task: Task) -> Output:
        ingest, masks, predictions = usable(task.tables["ingest"]), task.tables["mask"], task.tables["predict"]
        gold, masked, filled = lists(ingest, "gold_ids"), lists(masks, "masked"), lists(predictions, "filled_ids")
        assert masks.column("example_id").equals(predictions.column("example_id"))
        imperfect = [put(*row) for row in zip(gold, masked, filled, strict=True)]
        changed = [int((new != old).sum()) for new, old in zip(imperfect, gold, strict=True)]
        gold_sql = ingest.column("gold_sql").to_pylist()
        # Where nothing changed the gold text itself is kept: decoding need not restore it to the letter.
        texts = [
            self.decode(ids.tolist()) if count else text for ids, count, text in zip(imperfect, changed, gold_sql, strict=True)
        ]
        columns: dict[str, Any] = {
            "example_id": masks.column("example_id").to_pylist(),
            "db_id": masks.column("db_id").to_pylist(),
            "view": masks.column("view").to_pylist(),
            "strategy": masks.column("strategy").to_pylist(),
            "masked": masked,
            "imperfect_ids": imperfect,
            "imperfect_sql": texts,
            "num_masked": [len(row) for row in masked],
            "num_rewritten": changed,
            "rewritten": [count / len(row) for count, row in zip(changed, masked, strict=True)],
            "parses": [parses(text) for text in texts],
        }
        columns |= self._execute(columns["db_id"], gold_sql, texts, columns["parses"])
        table = make_table(REWRITE, columns)
        task.tick(table.num_rows)
        return Output(table, _counts(table, sum(map(len, gold))))

    def _execute(self, db_ids: list[str], gold: list[str], texts: list[str], parsed: list[bool]) -> dict[str, list[bool | None]]:
        """Whether imperfect SQL executes and gives the gold result; by distinct statement, gold alongside."""
        if not self.settings.execute:
            return {"executes": [None] * len(texts), "same_result": [None] * len(texts)}
        statements = dict.fromkeys(
            pair
            for db_id, old, new, ok in zip(db_ids, gold, texts, parsed, strict=True)
            if ok
            for pair in ((db_id, old), (db_id, new))
        )
        jobs = [Job(str(self.database(db_id)), sql, (db_id, sql)) for db_id, sql in statements]
        results = {result.key: result for result in self.pool.run(jobs)}
        executes: list[bool | None] = []
        same: list[bool | None] = []
        for db_id, old, new, ok in zip(db_ids, gold, texts, parsed, strict=True):
            runs = ok and results[db_id, new].kind is Kind.OK
            executes.append(runs)
            same.append(
                runs
                and results[db_id, old].kind is Kind.OK
                and (old == new or same_bag(results[db_id, old].rows, results[db_id, new].rows, is_ordered(old)))
            )
        return {"executes": executes, "same_result": same}


def put(gold: NDArray[np.int32], masked: NDArray[np.int32], filled: NDArray[np.int32]) -> NDArray[np.int32]:
    """Gold with the predictions at the masked positions."""
    imperfect = gold.copy()
    imperfect[masked] = filled
    return imperfect


def parses(sql: str) -> bool:
    """Whether sqlglot reads it as one SQLite query."""
    try:
        return len([tree for tree in sqlglot.parse(sql, dialect="sqlite") if tree is not None]) == 1
    except (SqlglotError, RecursionError):
        return False


def _counts(table: pa.Table, sql_tokens: int) -> dict[str, Any]:
    frame = pl.DataFrame(pl.from_arrow(table.select(["num_masked", "num_rewritten", "parses", "executes", "same_result"])))
    sums = frame.select(
        masked=pl.col("num_masked").sum(),
        rewritten=pl.col("num_rewritten").sum(),
        changed_rows=(pl.col("num_rewritten") > 0).sum(),
        parse=pl.col("parses").sum(),
        execute=pl.col("executes").fill_null(False).sum(),
        same_result=pl.col("same_result").fill_null(False).sum(),
    ).row(0, named=True)
    return {"in": table.num_rows, "out": table.num_rows, "sql_tokens": sql_tokens, **{k: int(v) for k, v in sums.items()}}
