"""Stored predictions in, the same with holes filled by another rule out. No model is asked, and the bytes are a model's."""

import numpy as np
import pyarrow as pa

from kidcore.config.seeds import row_rng
from kidcore.config.stage_settings import PredictSettings
from kidcore.method.filling import fill
from kidcore.models.backends.base import TopK
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.graph import Output
from kidcore.store.schemas import schema_of
from pipeline.rows import usable


def refill(settings: PredictSettings, predicted: pa.Table, ingest: pa.Table, view: int) -> Output:
    """What `predict` would store under `settings`, of which the rule, its temperature and its seed may be others."""
    example_ids = predicted.column("example_id").to_pylist()
    rows = usable(ingest)
    assert rows.column("example_id").to_pylist() == example_ids
    columns = {name: lists(predicted, name) for name in ("masked", "hole_ids", "hole_logprobs")}
    filled = []
    for row, gold in enumerate(lists(rows, "gold_ids")):
        masked, ids, logprobs = (columns[name][row] for name in ("masked", "hole_ids", "hole_logprobs"))
        shape = (len(masked), len(ids) // max(len(masked), 1))
        holes = TopK(ids.reshape(shape), logprobs.reshape(shape), np.zeros(len(masked), np.float32))
        filled.append(fill(settings, holes, gold[masked], row_rng(settings.seed, "predict", example_ids[row], view)))
    kept = {name: predicted.column(name).to_pylist() for name in ("example_id", "db_id", "view")}
    table = arrow_table(schema_of("predict"), {**kept, **columns, "filled_ids": filled})
    return Output(table, {"in": len(filled), "out": len(filled)})
