"""What goes in and out of a worker: plain values, and nothing that a worker taken over could make its parent call."""

import io
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.sql.sandbox.job import QueryResult, ResultKind, dump_plain, load_plain
from kidcore.sql.sandbox.worker import HEADER, _read_frame, _send, engine_name

VALUES = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)


@settings(max_examples=50)
@given(VALUES)
def test_plain_values_come_back(value: object) -> None:
    assert load_plain(dump_plain(value)) == value


@pytest.mark.parametrize("value", [Path("x"), ResultKind.OK, os.system, {1}.union, ValueError("x"), pickle.Unpickler])
def test_anything_else_is_refused_and_called_by_nobody(value: object) -> None:
    with pytest.raises((pickle.UnpicklingError, TypeError), match=r"a sandbox worker sent|cannot pickle"):
        load_plain(dump_plain(value))


def test_damaged_bytes_are_no_value() -> None:
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        load_plain(dump_plain([1, 2])[:-2])


def test_rows_are_decoded_when_they_are_asked_for() -> None:
    rows = [(1, "a"), (None, b"x")]
    result = QueryResult("key", ResultKind.OK, dump_plain(rows), 2, ("a", "b"))
    assert result.is_ok
    assert result.rows == rows
    assert result.rows is result.rows
    failed = QueryResult("key", ResultKind.ERROR, message="no such table")
    assert not failed.is_ok
    assert failed.rows == []


@settings(max_examples=30)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=4))
def test_frames_are_read_one_after_the_other_until_the_pipe_closes(frames: list[bytes]) -> None:
    pipe = io.BytesIO()
    for frame in frames:
        _send(pipe, frame)
    pipe.seek(0)
    assert [_read_frame(pipe) for _ in frames] == frames
    assert _read_frame(pipe) == b""


def test_a_parent_that_died_within_a_header_has_gone() -> None:
    assert _read_frame(io.BytesIO(HEADER.pack(5)[:3])) == b""


@pytest.mark.parametrize(
    ("content", "engine"),
    [
        (b"SQLite format 3\0" + b"x" * 20, "sqlite"),
        (b"x" * 8 + b"DUCK" + b"x" * 8, "duckdb"),
        (b"DUCK" + b"x" * 20, "sqlite"),
        (b"x" * 8 + b"DUC", "sqlite"),
        (b"", "sqlite"),
        (None, "sqlite"),
    ],
)
def test_which_engine_a_file_belongs_to(tmp_path: Path, content: bytes | None, engine: str) -> None:
    path = tmp_path / "database"
    if content is not None:
        path.write_bytes(content)
    assert engine_name(str(path)) == engine
