"""Arrow list columns in, numpy slices out, and back: no Python list a value."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def lists(table: pa.Table, name: str) -> list[NDArray[Any]]:
    """The rows of a list column as views into one flat array."""
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], type=column.type)
    offsets = column.offsets.to_numpy()
    flat = column.values.to_numpy(zero_copy_only=False)
    return [flat[start:end] for start, end in itertools.pairwise(offsets)]


def list_array(rows: Sequence[NDArray[Any]] | Sequence[Sequence[int]], kind: pa.ListType) -> pa.ListArray:
    """A list column of arrow type `kind` from one array a row."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    dtype = kind.value_type.to_pandas_dtype()
    arrays = [np.asarray(row, dtype=dtype) for row in rows]
    flat = np.concatenate(arrays) if arrays else np.empty(0, dtype=dtype)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, type=kind.value_type), type=kind)


def arrow_table(schema: pa.Schema, columns: dict[str, Any]) -> pa.Table:
    """A table of `schema`; list columns are given as one array a row, others as sequences."""
    assert columns.keys() == set(schema.names), columns.keys() ^ set(schema.names)
    arrays = [
        list_array(columns[f.name], f.type) if pa.types.is_list(f.type) else pa.array(columns[f.name], type=f.type)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)
