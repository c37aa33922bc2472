"""Ingested rows in, the positions to mask in each row's gold SQL out; the rules are kidcore.method.masking's."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kidcore.config.seeds import row_rng
from kidcore.config.stage_settings import MaskSettings
from kidcore.method.masking import choose, schema_positions, table_positions
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.graph import Output, Task
from kidcore.store.schemas import schema_of
from pipeline.context import Context
from pipeline.rows import usable


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage under the settings of `context`."""

    def run(task: Task) -> Output:
        tables = task.tables
        output = mask(context.config.mask, tables["ingest"], tables.get("gold_score"), task.view, context.dialect)
        task.advance(output.table.num_rows)
        return output

    return run


def mask(
    settings: MaskSettings,
    ingest: pa.Table,
    gold_score: pa.Table | None,
    view: int,
    dialect: Callable[[str], str] = lambda _db_id: "sqlite",
) -> Output:
    """One row of masked positions an example.

    Args:
        ingest: rows of that stage; those with a reason are left out.
        gold_score: rows of that stage in the same order; needed for `hard` and `easy`, whose confidence is the
            teacher's log-probability of the gold token.
        view: seeds the choice together with `settings.seed` and the example's id.
        dialect: of a db_id; `schema` and `tables` look for identifiers in it.
    """
    rows = usable(ingest)
    example_ids = rows.column("example_id").to_pylist()
    gold = lists(rows, "gold_ids")
    starts = lists(rows, "gold_starts")
    sql = rows.column("gold_sql").to_pylist()
    dialects = [dialect(db_id) for db_id in rows.column("db_id").to_pylist()]
    candidates = table_positions if settings.strategy == "tables" else schema_positions
    confidence = _confidence(gold_score, example_ids) if gold_score is not None else None
    masked = [
        choose(
            settings,
            len(gold[row]),
            row_rng(settings.seed, f"mask.{settings.strategy}", example_id, view),
            logprobs=None if confidence is None else confidence[row][: len(gold[row])],
            identifiers=partial(candidates, sql[row], starts[row], dialects[row]),
            is_first=view == 0,
        )
        for row, example_id in enumerate(example_ids)
    ]
    table = arrow_table(
        schema_of("mask"),
        {
            "example_id": example_ids,
            "db_id": rows.column("db_id").to_pylist(),
            "view": [view] * len(example_ids),
            "strategy": [settings.strategy] * len(example_ids),
            "masked": masked,
        },
    )
    tokens = sum(map(len, gold))
    return Output(table, {"in": len(masked), "out": len(masked), "sql_tokens": tokens, "masked": sum(map(len, masked))})


def _confidence(gold_score: pa.Table, example_ids: list[str]) -> list[NDArray[np.float32]]:
    by_id = dict(zip(gold_score.column("example_id").to_pylist(), lists(gold_score, "actual_logprob"), strict=True))
    return [by_id[example_id] for example_id in example_ids]
