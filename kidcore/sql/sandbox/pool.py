"""The outer ring: jobs in, results out in the same order, from worker processes that are killed and replaced at need."""

import os
import selectors
import signal
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from kidcore.config.processes import usable_cores
from kidcore.sql.sandbox.job import Job, Limits, QueryResult, ResultKind, load_plain
from kidcore.sql.sandbox.process import WorkerProcess
from kidcore.sql.sandbox.worker import ALARM_GRACE_S
from kidcore.sql.text_files import visible

_WINDOW = 1024
"""Jobs begun or finished ahead of the one to be yielded next."""
_WINDOW_BYTES = 256 << 20
_PARENT_GRACE_S = ALARM_GRACE_S + 0.35
_STARVED = 0.5
"""A statement that reached its deadline with less than this share of it on a CPU is given a second chance."""
_READ_BYTES = 1 << 20


class SandboxPool:
    """Executes untrusted SQL: `with SandboxPool(limits, workers=4) as pool: for result in pool.run(jobs): ...`.

    Args:
        limits: what one statement may use.
        workers: processes; 0 = one per core that this process may use.
    """

    def __init__(self, limits: Limits | None = None, workers: int = 0) -> None:
        self.limits = limits or Limits()
        self._num_workers = workers or usable_cores()
        self._selector = selectors.DefaultSelector()
        self._workers: list[WorkerProcess] = []

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

    def execute(self, job: Job) -> QueryResult:
        """Run one job."""
        return next(self.run([job]))

    def run(self, jobs: Iterable[Job]) -> Iterator[QueryResult]:
        """Run jobs as they come; one result each, in order. A job that crashes or hangs harms no other."""
        run = _Run(self, iter(jobs))
        try:
            yield from run.results()
        finally:
            # A caller that stops early leaves workers busy with jobs nobody waits for.
            for worker in [worker for worker in self._workers if worker.held]:
                self.discard(worker)

    def idle(self) -> list[WorkerProcess]:
        """Workers that hold no job; started on demand."""
        idle = [worker for worker in self._workers if not worker.held]
        if not idle and len(self._workers) < self._num_workers:
            worker = WorkerProcess(self.limits)
            self._workers.append(worker)
            self._selector.register(worker, selectors.EVENT_READ)
            idle = [worker]
        return idle

    def discard(self, worker: WorkerProcess) -> tuple[int, float]:
        """Kill a worker, `idle` starts another when there is work; returns what `WorkerProcess.stop` does."""
        self._selector.unregister(worker)
        self._workers.remove(worker)
        return worker.stop()

    def busy(self) -> list[WorkerProcess]:
        """Workers that hold jobs."""
        return [worker for worker in self._workers if worker.held]

    def wait(self) -> list[WorkerProcess]:
        """Workers that have something to say, waiting no longer than the next deadline."""
        deadline = min(worker.last_sign for worker in self.busy()) + self.silence_s
        events = self._selector.select(max(0.05, deadline - time.monotonic()))
        return [worker for worker in (key.fileobj for key, _ in events) if isinstance(worker, WorkerProcess)]

    @property
    def silence_s(self) -> float:
        """How long a worker may say nothing while it has a job."""
        return self.limits.timeout_s + _PARENT_GRACE_S


class _Run:
    """One call of SandboxPool.run: what is waiting, in flight and finished."""

    def __init__(self, pool: SandboxPool, jobs: Iterator[Job]) -> None:
        self._pool = pool
        self._jobs = enumerate(jobs)
        self._paths: dict[str, str] = {}
        """Absolute paths of the databases met."""
        self._retry: deque[tuple[int, Job]] = deque()
        self._retried: dict[int, float] = {}
        """Jobs that have had their second chance, and the seconds of the first."""
        self._finished: dict[int, QueryResult] = {}
        self._finished_bytes = 0
        self._next = 0
        self._begun = 0
        self._exhausted = False

    def results(self) -> Iterator[QueryResult]:
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
            path = self._paths.get(job.database) or self._paths.setdefault(job.database, str(Path(job.database).absolute()))
            if fault := job.fault or _unfit(path):
                self._finish(number, QueryResult(job.key, ResultKind.ERROR, message=fault))
            elif refusal := _refuse(job, self._pool.limits):
                self._finish(number, QueryResult(job.key, ResultKind.REFUSED, message=refusal))
            else:
                batch.append((number, Job(path, job.sql, job.key, job.reverse)))
        return batch

    def _finish(self, number: int, result: QueryResult) -> None:
        self._finished[number] = result
        if number in self._retried:
            self._finished[number] = replace(result, runs=2, seconds=max(result.seconds, self._retried[number]))
        self._finished_bytes += len(result.payload)

    def _receive(self, worker: WorkerProcess) -> None:
        data = os.read(worker.fileno(), _READ_BYTES)
        if not data:
            self._bury(worker)
            return
        worker.last_sign = time.monotonic()
        worker.received += data
        for frame in worker.frames():
            if not frame:
                if not worker.turns_left:
                    self._bury(worker)
                    return
                worker.turn()
                continue
            kind, payload, num_rows, columns, message, seconds, cpu_s = load_plain(frame)
            if self._is_doubtful(worker, ResultKind(kind), cpu_s, seconds):
                self._replace(worker)
                return
            number, job = worker.held.popleft()
            worker.served += 1
            worker.cpu_s += cpu_s
            self._finish(number, QueryResult(job.key, ResultKind(kind), payload, num_rows, columns, message, seconds))
            if kind == ResultKind.MEMORY.value:
                self._replace(worker)
                return
        if not worker.held:
            worker.adapt()

    def _is_doubtful(self, worker: WorkerProcess, kind: ResultKind, cpu_s: float, seconds: float) -> bool:
        """Whether the job in hand is to run once more on a fresh worker, because something else may be to blame.

        Memory and crashes may be the doing of the jobs before it, a deadline that of a machine too busy to run it.
        """
        number = worker.held[0][0]
        starved = kind is ResultKind.TIMEOUT and cpu_s < _STARVED * self._pool.limits.timeout_s
        followed = kind in (ResultKind.MEMORY, ResultKind.CRASHED) and worker.served > 0
        if number in self._retried or not (starved or followed):
            return False
        self._retried[number] = seconds
        return True

    def _replace(self, worker: WorkerProcess) -> None:
        self._give_back(worker)
        self._pool.discard(worker)

    def _give_back(self, worker: WorkerProcess) -> None:
        self._retry.extend(worker.held)
        worker.held.clear()

    def _bury(self, worker: WorkerProcess) -> None:
        """A worker has died or is silent; the job in hand did it, unless there is doubt."""
        seconds = time.monotonic() - worker.last_sign if worker.is_ready else 0.0
        status, cpu_s = self._pool.discard(worker)
        if not worker.held:
            return
        late = status == -signal.SIGALRM or worker.is_overdue(self._pool.silence_s)
        kind = ResultKind.TIMEOUT if late else ResultKind.CRASHED
        message = f"more than {self._pool.limits.timeout_s:g} s" if late else f"its process died with status {status}"
        if not self._is_doubtful(worker, kind, cpu_s, seconds):
            number, job = worker.held.popleft()
            self._finish(number, QueryResult(job.key, kind, message=message, seconds=seconds))
        self._give_back(worker)

    def _kill_overdue(self, heard: set[int]) -> None:
        """The kernel's alarm should have ended these; it didn't."""
        for worker in self._pool.busy():
            if id(worker) not in heard and worker.is_overdue(self._pool.silence_s):
                self._bury(worker)


@lru_cache(maxsize=4096)
def _unfit(path: str) -> str:
    """Why a path can't be a database's: a worker that opened a pipe would wait for a writer for ever. Empty where it may be."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 (a plain text, thousands of times)
    except (OSError, ValueError):
        return ""  # opening it says what is wrong
    return "" if stat.S_ISREG(mode) else "database is no file"


def _refuse(job: Job, limits: Limits) -> str:
    """Why a statement isn't even sent to a worker; empty where it is."""
    if "\0" in job.sql:
        return "contains a NUL character"
    if visible(job.sql) != job.sql:
        return "not Unicode text: a lone surrogate"
    if len(job.sql) > limits.max_sql_bytes:
        return f"a statement of more than {limits.max_sql_bytes} bytes"
    return ""
