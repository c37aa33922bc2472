"""One sandbox worker as its parent sees it: start, hand over jobs, collect answers, kill."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

from kidcore.sql.sandbox.job import Job, Limits, dump_plain
from kidcore.sql.sandbox.worker import HEADER

_LARGEST_BATCH = 64
"""Jobs sent to a worker at once: what a crash has to redo, against round trips."""
_QUICK_BATCH_S = 0.05
"""A batch done sooner than this is followed by one twice as large, one that took longer by one half as large."""
_START_LIMIT_S = 60.0
_TURNS = 3
"""How often a worker may turn between loading and ready: started, loading DuckDB, ready again. It can't put off its end so."""
_ROOT = Path(__file__).resolve().parents[3]


class WorkerProcess:
    """One worker process and the jobs it holds."""

    def __init__(self, limits: Limits) -> None:
        site = next((path for path in sys.path if (Path(path) / "duckdb").is_dir()), "")
        start = f"import sys; sys.path += {[str(_ROOT), site]!r}; from kidcore.sql.sandbox.worker import main; main()"
        # A new program, not a fork: the parent may hold the threads and locks of torch or vLLM. -I and -S keep the
        # caller's environment and site packages out.
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
            bufsize=0,
        )
        self.held: deque[tuple[int, Job]] = deque()
        self.served = 0
        self.cpu_s = 0.0
        self.is_ready = False
        self.turns_left = _TURNS
        self.last_sign = self.sent_at = time.monotonic()
        self.batch_size = 1
        self.received = bytearray()
        self._write(dump_plain(astuple(limits)))

    def send(self, batch: list[tuple[int, Job]]) -> None:
        """Hand over jobs; the worker holds none, so it is reading and the pipe can't fill up both ways."""
        self.held.extend(batch)
        self.last_sign = self.sent_at = time.monotonic()
        self._write(dump_plain([(job.database, job.sql, None, job.reverse) for _, job in batch]))

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        view = memoryview(HEADER.pack(len(data)) + data)
        try:
            while view:
                view = view[self.process.stdin.write(view) :]
        except BrokenPipeError:
            pass  # it died; its end of file on the other pipe says so

    def adapt(self) -> None:
        """Choose the size of its next batch by the time of the last."""
        was_quick = time.monotonic() - self.sent_at < _QUICK_BATCH_S
        self.batch_size = min(_LARGEST_BATCH, 2 * self.batch_size) if was_quick else max(1, self.batch_size // 2)

    def fileno(self) -> int:
        """The descriptor results come from."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def frames(self) -> Iterator[bytes]:
        """The complete answers received so far."""
        position = 0
        while position + HEADER.size <= len(self.received):
            end = position + HEADER.size + HEADER.unpack_from(self.received, position)[0]
            if end > len(self.received):
                break
            yield bytes(memoryview(self.received)[position + HEADER.size : end])
            position = end
        del self.received[:position]

    def turn(self) -> None:
        """It has said that it is ready, or, having been so, that it is loading an engine."""
        self.is_ready = not self.is_ready
        self.turns_left -= 1

    def is_overdue(self, limit_s: float) -> bool:
        """Whether it has been silent for longer than any statement may take. Starting up may take long on a busy machine."""
        return time.monotonic() - self.last_sign > (limit_s if self.is_ready else _START_LIMIT_S)

    def stop(self) -> tuple[int, float]:
        """Kill it; returns the exit status, its own where it had died already, and the CPU seconds of the job in hand."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        cpu_s = 0.0
        with contextlib.suppress(ChildProcessError):  # somebody else has waited for it
            _pid, status, usage = os.wait4(self.process.pid, 0)
            self.process.returncode = os.waitstatus_to_exitcode(status)
            cpu_s = usage.ru_utime + usage.ru_stime - self.cpu_s
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        return self.process.returncode or 0, cpu_s
