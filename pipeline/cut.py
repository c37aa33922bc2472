"""A shard of a teacher's scores in; the same with fewer ids a position out. No model is asked."""

from typing import Any

import pyarrow as pa

from kidcore.method.topk import keep_fewer
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.graph import Output
from kidcore.store.schemas import schema_of
from kidcore.store.store import Shard, Store
from pipeline.score import stored_columns, stored_rows


def cut_from(store: Store, wider: Shard, top_k: int) -> Output:
    """What `wider` holds, with at most `top_k` ids a position, as the stage would give it. Raises DamagedShard."""
    rows, counts = store.read(wider), store.counts(wider)
    stored = [keep_fewer(row, top_k) for row in stored_rows(rows)]
    cut = {name: values for name, values in stored_columns(stored).items() if name in rows.column_names}
    columns = {field.name: _values(rows, field) for field in schema_of(wider.stage)} | cut
    table = arrow_table(schema_of(wider.stage), columns)
    return Output(table, counts | {"stored_ids": sum(len(row.topk_ids) for row in stored)})


def _values(rows: pa.Table, field: pa.Field) -> Any:
    return lists(rows, field.name) if pa.types.is_list(field.type) else rows.column(field.name).to_pylist()
