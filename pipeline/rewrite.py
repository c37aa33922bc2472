"""Gold, masks and predictions (those that the teacher verified, where it does) in, imperfect SQL out."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import sqlglot
from sqlglot.errors import SqlglotError

from kidcore.method.filling import put
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.graph import Output, Task
from kidcore.store.schemas import schema_of
from pipeline.context import Context
from pipeline.rows import usable

# Imperfect SQL is often broken, which is no news: sqlglot would say so on stderr for each.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage with the tokenizer and the databases' dialects of `context`."""
    return partial(rewrite, context.decode, context.dialect)


def rewrite(decode: Callable[[list[int]], str], dialect: Callable[[str], str], task: Task) -> Output:
    """Put the predictions into the gold SQL; positions that were not masked stay gold.

    Args:
        decode: the text of SQL tokens.
        dialect: of a db_id.
    """
    ingest, masks = usable(task.tables["ingest"]), task.tables["mask"]
    predictions = task.tables["verify"] if "verify" in task.tables else task.tables["predict"]
    gold, masked, filled = lists(ingest, "gold_ids"), lists(masks, "masked"), lists(predictions, "filled_ids")
    assert masks.column("example_id").equals(predictions.column("example_id"))
    imperfect = [put(*row) for row in zip(gold, masked, filled, strict=True)]
    changed = [int((new != old).sum()) for new, old in zip(imperfect, gold, strict=True)]
    gold_sql = ingest.column("gold_sql").to_pylist()
    # Where nothing changed the gold text itself is kept: decoding need not restore it to the letter.
    texts = [decode(ids.tolist()) if count else text for ids, count, text in zip(imperfect, changed, gold_sql, strict=True)]
    parsed = [parses(text, dialect(db_id)) for text, db_id in zip(texts, masks.column("db_id").to_pylist(), strict=True)]
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
        "parses": parsed,
    }
    table = arrow_table(schema_of("rewrite"), columns)
    task.advance(table.num_rows)
    counts = {
        "in": table.num_rows,
        "out": table.num_rows,
        "sql_tokens": sum(map(len, gold)),
        "masked": sum(map(len, masked)),
        "rewritten": sum(changed),
        "changed_rows": sum(map(bool, changed)),
        "parse": sum(parsed),
    }
    return Output(table, counts)


def parses(sql: str, dialect: str = "sqlite") -> bool:
    """Whether sqlglot reads it as one query."""
    try:
        return len([tree for tree in sqlglot.parse(sql, dialect=dialect) if tree is not None]) == 1
    except (SqlglotError, RecursionError):
        return False
