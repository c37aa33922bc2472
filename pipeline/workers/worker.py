"""Jobs in; their shards, written from this process, and what is to be told of them out. Knows nothing of Ray.

Two jobs at a time are taken: while one computes, the next one's tables are read, or the last one's are written. Stages
themselves run in one thread only, one after the other: engines are not made for more.
"""

import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from kidcore.allocator import release_free_memory
from kidcore.config.processes import usable_cores
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import EngineDied
from kidcore.models.backends.facts import EngineFacts
from kidcore.store.graph import Output, Task
from kidcore.store.log import SHARDS, shards_of
from kidcore.store.store import DamagedShard, Shard, Store
from kidcore.version import kidpipe_version
from pipeline.derive import derive
from pipeline.ledger import made_by
from pipeline.workers.jobs import Answer, Damaged, Done, Failed, Greeting, Job, News

_OUR_LOGS = ("pipeline", "kidcore")
_UNSEEN_S = (0.0, 0.2, 1.0, 3.0)
"""How long to wait for a file that another machine wrote: network file systems keep lists of folders for a while."""


class StageBodies(Protocol):
    """Where a worker has the functions of its stages from."""

    def run(self, job: Job, task: Task) -> Output:
        """The rows of the job's shard."""
        ...

    def take_engine(self) -> tuple[EngineFacts | None, float]:
        """The engine that was asked since the last call, and the seconds that it took to start."""
        ...


@dataclass(frozen=True)
class Place:
    """Where a worker works."""

    folder: Path
    """The driver's working folder: relative paths start there."""
    store: Path
    lock: str
    """The mark of the store's lock: another folder of that name has another."""
    threads: int
    """Threads of a stage; 0 = this worker's share of the machine's cores."""
    neighbours: int
    """Workers that share a machine."""
    uses_gpu: bool
    host: str = ""
    """The driver's machine; empty where it does not matter."""


class Worker:
    """Makes shards; `bodies` is called once, before the first of them."""

    def __init__(self, place: Place, bodies: Callable[[], StageBodies]) -> None:
        with suppress(OSError):
            os.chdir(place.folder)
        if not place.uses_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        threads = place.threads or max(1, usable_cores() // place.neighbours)
        # Ray says one thread where no cores are reserved. Torch is not loaded yet.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        pa.set_cpu_count(threads)
        self._place = place
        self._open = bodies
        self._bodies: StageBodies | None = None
        is_elsewhere = place.host not in ("", os.uname().nodename)
        self._store = Store(place.store, shard_log=shards_of(os.uname().nodename) if is_elsewhere else SHARDS)
        self._computing = ThreadPoolExecutor(1, "stage")
        self._free_since: float | None = None
        self._news = News()
        self._said: list[tuple[int, str]] = []
        for name in _OUR_LOGS:
            log = logging.getLogger(name)
            log.handlers, log.propagate = [_Keeper(self._said)], False
            log.setLevel(logging.INFO)

    def greet(self) -> Greeting:
        """Say where it runs, and whether the store is the same."""
        store, sees = Store(self._place.store), not self._place.lock
        for pause in _UNSEEN_S:
            if sees:
                break
            time.sleep(pause)
            sees = store.lock_mark == self._place.lock
        return Greeting(os.uname().nodename, os.getpid(), kidpipe_version(), sees)

    def tell(self) -> News:
        """Say how far it is with what it computes."""
        return self._news

    def make(self, job: Job) -> Answer:
        """Make one shard. Whatever goes wrong is an answer too."""
        try:
            return self._make(job)
        except DamagedShard as damage:
            return Damaged(damage.shard, damage.why)
        except KidpipeError as error:
            return Failed(error.what, error.where, error.fix, is_final=not isinstance(error, EngineDied))
        except Exception as error:  # a bug, or an accident such as a full GPU: the driver tries it elsewhere, and counts
            last = traceback.format_exception_only(error)[-1].strip()
            return Failed(last, "", "", is_final=False, trace=traceback.format_exc())

    def _make(self, job: Job) -> Done:
        began = time.perf_counter()
        if job.source is None:
            tables = {name: self._read(shard) for name, shard in job.inputs.items()}
            read_s = time.perf_counter() - began
            task = Task(job.part, job.cell.view, tables, self._advance)
            output, computed_s, idle_s, (engine, start_s) = self._computing.submit(self._compute, job, task).result()
        else:
            settings: Mapping[str, Any] = job.provenance["settings"]  # type: ignore[assignment]
            output = derive(self._store, job.source, settings, job.cell.view, lambda name: self._read(job.inputs[name]))
            engine, start_s = None, 0.0
            read_s, computed_s, idle_s = 0.0, time.perf_counter() - began, 0.0
        made = made_by(engine, seconds=read_s + computed_s, engine_start_s=start_s)
        line = dict(job.line) | made | {"worker": f"process {os.getpid()} on {os.uname().nodename}"}
        shard = self._store.commit(job.cell.stage, job.cell.key, output.table, output.counts, line, job.provenance)
        said = tuple(self._said)
        del self._said[: len(said)]
        release_free_memory()
        return Done(shard, int(output.counts.get("out", 0)), computed_s - start_s, idle_s, said)

    def _compute(self, job: Job, task: Task) -> tuple[Output, float, float, tuple[EngineFacts | None, float]]:
        began = time.perf_counter()
        idle_s = 0.0 if self._free_since is None else began - self._free_since
        try:
            if self._bodies is None:
                self._bodies = self._open()
            self._news = News(job.cell)
            output = self._bodies.run(job, task)
            return output, time.perf_counter() - began, idle_s, self._bodies.take_engine()
        finally:
            self._news = News()
            self._free_since = time.perf_counter()

    def _advance(self, finished: int, under_way: int = 0, /) -> None:
        self._news = News(self._news.cell, self._news.finished + finished, under_way)

    def _read(self, shard: Shard) -> pa.Table:
        """The rows of a shard that may have been written by another machine a moment ago."""
        path = self._store.path(shard)
        for pause in _UNSEEN_S:
            if path.exists():
                break
            time.sleep(pause)
            with suppress(OSError):
                os.listdir(path.parent)  # noqa: PTH208 - asking for the list makes the client look again
        return self._store.read(shard)


class _Keeper(logging.Handler):
    """Keeps what is logged, for the driver to say."""

    def __init__(self, said: list[tuple[int, str]]) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append((record.levelno, record.getMessage()))
