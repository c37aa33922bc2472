"""What the sandbox is asked (Job, under Limits) and what it answers (Result); standard library only, workers import it."""

import io
import pickle
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeAlias

Value: TypeAlias = Any
"""None, int, float, str or bytes; from DuckDB also hashable tuples of these."""
Row: TypeAlias = tuple[Value, ...]


class ResultKind(StrEnum):
    """How a statement ended."""

    OK = "ok"
    ERROR = "error"
    """The engine rejected it: syntax, unknown names, run-time errors."""
    REFUSED = "refused"
    """Not one reading statement, or beyond a limit on its text or values."""
    TIMEOUT = "timeout"
    """Stopped at the deadline or at the step limit."""
    MEMORY = "memory"
    """Ran out of its memory, or its result has too many rows or bytes."""
    CRASHED = "crashed"
    """Its worker process died."""


@dataclass(frozen=True)
class Limits:
    """What one statement may use.

    Columns, depth and terms are what SQLite itself admits: the official evaluators execute that much too.

    `timeout_s` is wall time, so what it stops depends on the machine; `max_steps` counts the virtual machine's steps and
    stops the same statements everywhere (SQLite only; 0 = no limit).
    """

    timeout_s: float = 10.0
    memory_mib: int = 1024
    max_steps: int = 0
    max_rows: int = 1_000_000
    max_bytes: int = 64 << 20
    max_value_bytes: int = 16 << 20
    max_sql_bytes: int = 100_000
    max_columns: int = 2_000
    max_expression_depth: int = 1_000
    max_compound: int = 500


@dataclass(frozen=True)
class Job:
    """One statement to execute on one database file; `key` comes back with the result, untouched.

    `reverse` asks SQLite to visit rows in reverse where no ORDER BY says otherwise: a result that changes rests on ties.
    With a `fault` nothing is executed: it is why the database can't be used, and the result's message.
    """

    database: str
    sql: str
    key: Any = None
    reverse: bool = False
    fault: str = ""


@dataclass(frozen=True)
class QueryResult:
    """How a job ended. `payload` holds the pickled rows; equal payloads mean equal rows, the reverse need not hold."""

    key: Any
    kind: ResultKind
    payload: bytes = b""
    num_rows: int = 0
    columns: tuple[str, ...] = ()
    """Their names, as the engine gives them: of an expression without one its text."""
    message: str = ""
    seconds: float = 0.0
    """Of the longer run: on the worker's clock, or, where the worker was killed, since its last sign of life."""
    runs: int = 1
    """2 where it was run again on a fresh worker because something else may have been to blame; each has the whole deadline."""

    @property
    def is_ok(self) -> bool:
        """Whether there are rows to look at (perhaps none of them)."""
        return self.kind is ResultKind.OK

    @property
    def num_columns(self) -> int:
        """How many values a row has."""
        return len(self.columns)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows, decoded on first use."""
        rows: list[Row] = load_plain(self.payload) if self.payload else []
        return rows


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles values only: a worker that was taken over can't make its parent call anything."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a sandbox worker sent {module}.{name}")


def dump_plain(value: Any) -> bytes:
    """Pickle numbers, texts, bytes, lists and tuples."""
    return pickle.dumps(value, protocol=5)


def load_plain(data: bytes) -> Any:
    """The value that `dump_plain` packed; raises pickle.UnpicklingError for anything that isn't plain."""
    return _PlainUnpickler(io.BytesIO(data)).load()
