"""The outer ring: jobs in, results out in the same order, from worker processes that are killed and replaced at need."""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from pathlib import Path
from types import TracebackType

from kidpipe.sandbox.job import Job, Kind, Limits, Result, dump_plain, load_plain
from kidpipe.sandbox.worker import ALARM_GRACE_S, HEADER

_LARGEST_BATCH = 64
"""Jobs sent to a worker at once: what a crash has to redo, against round trips."""
_QUICK_BATCH_S = 0.05
"""A batch done sooner than this is followed by one twice as large, one that took longer by one half as large."""
_WINDOW = 1024
"""Jobs begun or finished ahead of the one to be yielded next."""
_WINDOW_BYTES = 256 << 20
_PARENT_GRACE_S = ALARM_GRACE_S + 0.35
_READ_BYTES = 1 << 20
_ROOT = Path(__file__).resolve().parents[2]


class _Worker:
    """One worker process and the jobs it holds."""

    def __init__(self, limits: Limits) -> None:
        site = next((path for path in sys.path if (Path(path) / "duckdb").is_dir()), "")
        start = f"import sys; sys.path += {[str(_ROOT), site]!r}; from kidpipe.sandbox.worker import main; main()"
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

    def stop(self) -> int:
        """Kill it; returns the exit status, its own where it had died already."""
        if self.process.poll() is None:
            self.process.kill()
        status = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        return status


class SandboxPool:
    """Executes untrusted SQL: `with SandboxPool(limits, workers=4) as pool: for result in pool.run(jobs): ...`.

    Args:
        limits: what one statement may use.
        workers: processes; 0 = one a core.
    """

    def __init__(self, limits: Limits | None = None, workers: int = 0) -> None:
        self.limits = limits or Limits()
        self._num_workers = workers or os.cpu_count() or 1
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []

    def __enter__(self) -> "SandboxPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.stop()
        self._workers.clear()
        self._selector.close()

    def execute(self, job: Job) -> Result:
        """Run one job."""
        return next(self.run([job]))

    def run(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Run jobs as they come; one result each, in order. A job that crashes or hangs harms no other."""
        run = _Run(self, iter(jobs))
        try:
            yield from run.results()
        finally:
            # A caller that stops early leaves workers busy with jobs nobody waits for.
            for worker in [worker for worker in self._workers if worker.held]:
                self.discard(worker)

    def idle(self) -> list[_Worker]:
        """Workers that hold no job; started on demand."""
        idle = [worker for worker in self._workers if not worker.held]
        if not idle and len(self._workers) < self._num_workers:
            worker = _Worker(self.limits)
            self._workers.append(worker)
            self._selector.register(worker, selectors.EVENT_READ)
            idle = [worker]
        return idle

    def discard(self, worker: _Worker) -> int:
        """Kill a worker; `idle` starts another when there is work."""
        self._selector.unregister(worker)
        self._workers.remove(worker)
        return worker.stop()

    def busy(self) -> list[_Worker]:
        """Workers that hold jobs."""
        return [worker for worker in self._workers if worker.held]

    def wait(self) -> list[_Worker]:
        """Workers that have something to say, waiting no longer than the next deadline."""
        deadline = min(worker.last_sign for worker in self.busy()) + self.limits.timeout_s + _PARENT_GRACE_S
        events = self._selector.select(max(0.0, deadline - time.monotonic()))
        return [worker for worker in (key.fileobj for key, _ in events) if isinstance(worker, _Worker)]


class _Run:
    """One call of SandboxPool.run: what is waiting, in flight and finished."""

    def __init__(self, pool: SandboxPool, jobs: Iterator[Job]) -> None:
        self._pool = pool
        self._jobs = enumerate(jobs)
        self._retry: deque[tuple[int, Job]] = deque()
        self._retried: set[int] = set()
        self._finished: dict[int, Result] = {}
        self._finished_bytes = 0
        self._next = 0
        self._begun = 0
        self._exhausted = False

    def results(self) -> Iterator[Result]:
        while True:
            while self._next in self._finished:
                result = self._finished.pop(self._next)
                self._finished_bytes -= len(result.payload)
                self._next += 1
                yield result
            self._dispatch()
            if not self._pool.busy():
                if self._next not in self._finished:
                    return
                continue
            ready = self._pool.wait()
            for worker in ready:
                self._receive(worker)
            self._kill_overdue(set(map(id, ready)))

    def _dispatch(self) -> None:
        while (self._retry or self._may_begin()) and (idle := self._pool.idle()):
            # Jobs redone after a crash go alone, so that the one to blame is known.
            batch = [self._retry.popleft()] if self._retry else self._take(idle[0].batch_size)
            if batch:
                idle[0].send(batch)

    def _may_begin(self) -> bool:
        if self._exhausted:
            return False
        is_head = self._begun == self._next
        return is_head or (self._begun - self._next < _WINDOW and self._finished_bytes < _WINDOW_BYTES)

    def _take(self, size: int) -> list[tuple[int, Job]]:
        batch: list[tuple[int, Job]] = []
        while len(batch) < size:
            item = next(self._jobs, None)
            if item is None:
                self._exhausted = True
                break
            self._begun += 1
            number, job = item
            if refusal := _refuse(job, self._pool.limits):
                self._finish(number, Result(job.key, Kind.REFUSED, message=refusal))
            else:
                batch.append((number, Job(str(Path(job.database).absolute()), job.sql, job.key, job.reverse)))
        return batch

    def _finish(self, number: int, result: Result) -> None:
        self._finished[number] = result
        self._finished_bytes += len(result.payload)

    def _receive(self, worker: _Worker) -> None:
        data = os.read(worker.fileno(), _READ_BYTES)
        if not data:
            self._bury(worker)
            return
        worker.last_sign = time.monotonic()
        worker.received += data
        for frame in worker.frames():
            kind, payload, num_rows, num_columns, message, seconds = load_plain(frame)
            if kind == Kind.MEMORY.value and worker.served and self._try_again(worker):
                return
            number, job = worker.held.popleft()
            worker.served += 1
            self._finish(number, Result(job.key, Kind(kind), payload, num_rows, num_columns, message, seconds))
            if kind == Kind.MEMORY.value:
                self._replace(worker)
                return
        if not worker.held:
            worker.adapt()

    def _try_again(self, worker: _Worker) -> bool:
        """Whether the job in hand is to run once more, on a fresh worker: what ran before it may be to blame."""
        number = worker.held[0][0]
        if number in self._retried:
            return False
        self._retried.add(number)
        self._replace(worker)
        return True

    def _replace(self, worker: _Worker) -> int:
        self._retry.extend(worker.held)
        worker.held.clear()
        return self._pool.discard(worker)

    def _bury(self, worker: _Worker) -> None:
        """A worker has died; the job in hand did it, unless it can be shown innocent."""
        if not worker.held:
            self._pool.discard(worker)
            return
        number, job = worker.held[0]
        worker.process.wait()
        status = worker.process.returncode
        if status == -signal.SIGALRM:
            result = Result(job.key, Kind.TIMEOUT, message=f"more than {self._pool.limits.timeout_s:g} s")
        elif worker.served and self._try_again(worker):
            return
        else:
            result = Result(job.key, Kind.CRASHED, message=f"its process died with status {status}")
        worker.held.popleft()
        self._finish(number, result)
        self._replace(worker)

    def _kill_overdue(self, heard: set[int]) -> None:
        """The kernel's alarm should have ended these; it didn't."""
        limit = time.monotonic() - self._pool.limits.timeout_s - _PARENT_GRACE_S
        for worker in self._pool.busy():
            if worker.last_sign < limit and id(worker) not in heard:
                number, job = worker.held.popleft()
                self._finish(number, Result(job.key, Kind.TIMEOUT, message=f"more than {self._pool.limits.timeout_s:g} s"))
                self._replace(worker)


def _refuse(job: Job, limits: Limits) -> str:
    """Why a statement isn't even sent to a worker; empty where it is."""
    if "\0" in job.sql:
        return "contains a NUL character"
    if len(job.sql) > limits.max_sql_bytes:
        return f"a statement of more than {limits.max_sql_bytes} bytes"
    return ""
