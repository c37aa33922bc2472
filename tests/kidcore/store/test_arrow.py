"""List columns of any layout that Arrow has are the rows that were put in."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.store.arrow import arrow_table, list_array, lists

ROWS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4), max_size=6)
KIND = pa.list_(pa.int32())


def table_of(rows: list[list[int]]) -> pa.Table:
    return pa.table({"x": list_array(rows, KIND)})


def read(table: pa.Table) -> list[list[int]]:
    return [row.tolist() for row in lists(table, "x")]


@settings(max_examples=30)
@given(ROWS)
def test_what_is_put_in_comes_out(rows: list[list[int]]) -> None:
    assert read(table_of(rows)) == rows
    assert list_array(rows, KIND).to_pylist() == rows
    assert list_array([np.array(row, np.int64) for row in rows], KIND).to_pylist() == rows


@settings(max_examples=30)
@given(ROWS, ROWS, st.data())
def test_chunks_slices_and_filters_do_not_matter(left: list[list[int]], right: list[list[int]], data: st.DataObject) -> None:
    both = pa.concat_tables([table_of(left), table_of(right)])
    rows = left + right
    assert read(both) == rows
    start = data.draw(st.integers(0, len(rows)))
    length = data.draw(st.integers(0, len(rows)))
    for table in (both, table_of(rows)):
        assert read(table.slice(start, length)) == rows[start : start + length]
    kept = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    assert read(both.filter(pa.array(kept, pa.bool_()))) == [row for row, is_kept in zip(rows, kept, strict=True) if is_kept]


def test_a_slice_is_read_from_where_it_begins() -> None:
    table = table_of([[1, 2], [3], [], [4, 5]])
    assert [read(table.slice(start)) for start in range(5)] == [
        [[1, 2], [3], [], [4, 5]],
        [[3], [], [4, 5]],
        [[], [4, 5]],
        [[4, 5]],
        [],
    ]
    assert read(pa.table({"x": table.column("x").chunk(0).slice(1, 1)})) == [[3]]


def test_a_table_without_rows_or_chunks_has_none() -> None:
    assert read(table_of([])) == []
    assert read(pa.table({"x": pa.chunked_array([], type=KIND)})) == []
    assert read(table_of([[1], [2]]).slice(2)) == []
    assert read(table_of([[], []])) == [[], []]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.float16(), [0.5, -65504.0]),
        (pa.float32(), [float("nan"), float("-inf"), 1e-30]),
        (pa.int16(), [-32768, 32767]),
        (pa.bool_(), [True, False, True]),
    ],
)
def test_every_type_of_our_columns_keeps_its_values_and_its_width(kind: pa.DataType, values: list[object]) -> None:
    (row,) = lists(pa.table({"x": list_array([values], pa.list_(kind))}), "x")
    assert row.dtype == kind.to_pandas_dtype()
    np.testing.assert_array_equal(row, np.array(values, kind.to_pandas_dtype()))


def test_rows_are_views_into_one_array_not_copies() -> None:
    first, second = lists(table_of([[1, 2], [3]]), "x")
    assert first.base is not None
    assert np.shares_memory(np.asarray(first), np.asarray(first.base))
    assert second.tolist() == [3]


def test_a_table_is_of_its_schema_in_its_order() -> None:
    schema = pa.schema([pa.field("id", pa.string(), False), pa.field("x", KIND, False), pa.field("why", pa.string())])
    table = arrow_table(schema, {"why": [None, "long"], "x": [[1], []], "id": ["a", "b"]})
    assert table.schema == schema
    assert table.to_pylist() == [{"id": "a", "x": [1], "why": None}, {"id": "b", "x": [], "why": "long"}]
    for columns in ({"id": []}, {"id": [], "x": [], "why": [], "more": []}):
        with pytest.raises(AssertionError):
            arrow_table(schema, columns)


def test_a_number_too_large_for_its_column_is_refused_not_cut() -> None:
    with pytest.raises((OverflowError, pa.ArrowInvalid)):
        list_array([[2**31]], KIND)
    with pytest.raises((OverflowError, pa.ArrowInvalid)):
        arrow_table(pa.schema([("n", pa.int16())]), {"n": [40000]})
