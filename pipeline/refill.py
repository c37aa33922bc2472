"""Stored predictions in, the same with holes filled by another rule out. No model is asked, and the bytes are a model's."""

import numpy as np
import pyarrow as pa

from kidcore.config.stage_settings import PredictSettings
from kidcore.models.backends.base import TopK
from kidcore.store.arrow import lists
from kidcore.store.graph import Output
from pipeline.predict import predicted
from pipeline.rows import usable


def refill(settings: PredictSettings, stored: pa.Table, ingest: pa.Table, view: int) -> Output:
    """What `predict` would store under `settings`, of which the rule, its temperature and its seed may be others."""
    rows = usable(ingest)
    assert rows.column("example_id").to_pylist() == stored.column("example_id").to_pylist()
    holes = []
    for masked, ids, logprobs in zip(*(lists(stored, name) for name in ("masked", "hole_ids", "hole_logprobs")), strict=True):
        shape = (len(masked), len(ids) // max(len(masked), 1))
        holes.append(TopK(ids.reshape(shape), logprobs.reshape(shape), np.zeros(len(masked), np.float32)))
    return predicted(settings, stored, lists(rows, "gold_ids"), holes, view)
