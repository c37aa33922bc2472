"""An ingest shard in, the rows that the later stages work on out, and the order in which an engine should see them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def usable(ingest: pa.Table) -> pa.Table:
    """The rows that were not set aside."""
    return ingest.filter(pc.is_null(ingest.column("reason")))


def by_shared_prefix(prompts: Sequence[NDArray[np.int32]]) -> list[int]:
    """Row numbers with equal prompt prefixes side by side, so that an engine's prefix cache still holds them."""
    return sorted(range(len(prompts)), key=lambda row: prompts[row].tobytes())


def in_row_order(order: Sequence[int], values: Sequence[Any]) -> list[Any]:
    """Undo `by_shared_prefix`: `values[i]` belongs to row `order[i]`."""
    result: list[Any] = [None] * len(order)
    for row, value in zip(order, values, strict=True):
        result[row] = value
    return result
