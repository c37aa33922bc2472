"""A sandbox worker: batches of jobs on stdin, one framed result a job on stdout, until stdin closes.

Standard library only, so that a killed worker is replaced within some 20 ms. Started as its own program, never forked.
"""

import contextlib
import os
import signal
import struct
import sys
import time
from typing import BinaryIO, Protocol

from kidcore.sql.sandbox.job import Job, Limits, ResultKind, dump_plain, load_plain
from kidcore.sql.sandbox.sqlite import Fetched, SqliteEngine

HEADER = struct.Struct("<I")
# The kernel ends a statement that doesn't return to its engine's own deadline check (a single huge LIKE, say).
ALARM_GRACE_S = 0.25


# DuckDB reserves address space that it never fills; what it fills is bounded by its own memory limit.
_RESERVED_MIB = {"sqlite": 0, "duckdb": 1536}


class SqlEngine(Protocol):
    """The inner ring of one kind of database."""

    def execute(self, job: Job) -> Fetched:
        """Run one job; every way it can fail is a kind of result."""
        ...


def engine_name(database: str) -> str:
    """Which engine a database file belongs to, by its first bytes; SQLite unless it says otherwise."""
    with contextlib.suppress(OSError), open(database, "rb") as file:  # noqa: PTH123 (pathlib adds nothing here)
        if file.read(12)[8:12] == b"DUCK":
            return "duckdb"
    return "sqlite"


def main() -> None:
    """Serve the parent until it closes the pipe."""
    limits = Limits(*load_plain(_read_frame(sys.stdin.buffer)))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _confine()
    engines: dict[str, SqlEngine] = {}
    out = sys.stdout.buffer
    _send(out, b"")  # ready: from here on silence is the statement's
    while frame := _read_frame(sys.stdin.buffer):
        for fields in load_plain(frame):
            kind = _serve(Job(*fields), limits, engines, out)
            if kind is ResultKind.MEMORY:
                # The heap of a process that ran out of memory is not to be trusted with the next statement.
                os._exit(0)


def _serve(job: Job, limits: Limits, engines: dict[str, SqlEngine], out: BinaryIO) -> ResultKind:
    started, cpu_started = time.perf_counter(), time.process_time()
    try:
        engine = _engine(job.database, limits, engines, out)
        started, cpu_started = time.perf_counter(), time.process_time()
        signal.setitimer(signal.ITIMER_REAL, limits.timeout_s + ALARM_GRACE_S)
        kind, rows, columns, message = engine.execute(job)
        payload = dump_plain(rows) if kind is ResultKind.OK else b""
        num_rows = len(rows)
        del rows
        if len(payload) > limits.max_bytes:
            kind, payload, message = ResultKind.MEMORY, b"", f"a result of more than {limits.max_bytes} bytes"
    except MemoryError:
        kind, payload, num_rows, columns = ResultKind.MEMORY, b"", 0, ()
        message = f"needs more than {limits.memory_mib} MiB of memory"
    signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.perf_counter() - started
    cpu_s = time.process_time() - cpu_started
    _send(out, dump_plain((kind.value, payload, num_rows, columns, message, seconds, cpu_s)))
    return kind


def _send(out: BinaryIO, frame: bytes) -> None:
    out.write(HEADER.pack(len(frame)))
    out.write(frame)
    out.flush()


def _engine(database: str, limits: Limits, engines: dict[str, SqlEngine], out: BinaryIO) -> SqlEngine:
    name = engine_name(database)
    if name not in engines:
        if name == "duckdb":
            _send(out, b"")  # loading: not on the statement's clock
            from kidcore.sql.sandbox.duckdb import DuckdbEngine

            engines[name] = DuckdbEngine(limits)
            _send(out, b"")  # ready again
        else:
            engines[name] = SqliteEngine(limits)
        _bound_memory(limits.memory_mib + _RESERVED_MIB[name])
    return engines[name]


def _confine() -> None:
    """Let the kernel hold what the engines are asked to hold: no file may grow, few may be open, no core dump."""
    with contextlib.suppress(ImportError):  # not a Unix
        import resource

        for which, value in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64)):
            with contextlib.suppress(ValueError, OSError):  # a lower hard limit is already in force
                resource.setrlimit(which, (value, value))


def _bound_memory(more_mib: int) -> None:
    """Bound the address space to what is mapped now, with the engine loaded, and `more_mib`."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # not Linux, or a lower limit is in force
        import resource

        with open("/proc/self/statm") as file:  # noqa: PTH123
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        _soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (mapped + (more_mib << 20), hard))


def _read_frame(stream: BinaryIO) -> bytes:
    """The next frame, or empty bytes where the parent has gone."""
    head = stream.read(HEADER.size)
    if len(head) < HEADER.size:
        return b""
    return stream.read(HEADER.unpack(head)[0])
