"""Rows finished in, a line a stage with rate and time left out, on stderr: a bar on a terminal, else a line at half minutes."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from rich.progress import TaskID

from kidcore.console import open_console
from kidcore.progress import SECONDS_A_LINE, WorkProgress


class StageProgress:
    """What was reused of a stage, then how far it is; engine starts are steps of their own."""

    def __init__(self, is_shown: bool) -> None:
        self._work = WorkProgress(open_console(stderr=True, quiet=not is_shown), is_shown)
        self._task: TaskID | None = None
        self._line = ""

    def __enter__(self) -> "StageProgress":
        self._work.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._work.__exit__(kind, error, traceback)

    def start(self, name: str, rows: int, total_rows: int, reused: int, total: int) -> None:
        """Begin a stage with `rows` of its `total_rows` to do; `reused` of its `total` shards are finished already."""
        self._task = self._work.add(name, total_rows, first=total_rows - rows)
        self._line = (
            f"{name:<11} {total - reused} of {total} shards, {rows:,} rows" if rows else f"{name:<11} reused, {total} shards"
        )

    def advance(self, rows: int, under_way: int = 0, /) -> None:
        """Note `rows` more as finished, and others as begun."""
        if self._task is not None:
            self._work.advance(self._task, rows, under_way)

    def starting(self, what: str) -> AbstractContextManager[None]:
        """While an engine starts."""
        return self._work.starting(what)

    def finish(self) -> None:
        """End the stage and leave its line."""
        if self._task is None:
            return
        done, elapsed = self._work.end(self._task)
        self._task = None
        speed = f" in {elapsed:.1f} s ({done / elapsed:,.0f} rows/s)" if done and elapsed > 0 else ""
        self._work.say(self._line + speed)


class WorkerFigures(Protocol):
    """What a worker did so far."""

    @property
    def kind(self) -> str: ...

    @property
    def is_there(self) -> bool: ...

    @property
    def rows(self) -> int: ...

    @property
    def shards(self) -> int: ...

    @property
    def computed_s(self) -> float: ...

    @property
    def idle_s(self) -> float: ...


@dataclass
class _Line:
    """A stage that runs beside others."""

    rows: int
    total_rows: int
    shards: int
    total: int
    done: int
    """Rows of finished shards."""
    task: TaskID | None = None
    began: float = 0.0


class ManyStagesProgress:
    """Stages that run side by side: a bar each while shards of it are made, its line at its end, and the rate of each engine."""

    def __init__(self, is_shown: bool) -> None:
        self._work = WorkProgress(open_console(stderr=True, quiet=not is_shown), is_shown)
        self._lines: dict[str, _Line] = {}
        self._said = time.monotonic()
        self.seconds: dict[str, float] = {}
        """Wall time by stage, from its first shard to its last."""

    def __enter__(self) -> "ManyStagesProgress":
        self._work.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._work.__exit__()

    def add(self, name: str, rows: int, total_rows: int, shards: int, total: int) -> None:
        """A stage of which `rows` of its `total_rows` in `shards` of its `total` shards are to be made."""
        self._lines[name] = _Line(rows, total_rows, shards, total, total_rows - rows)
        self.seconds[name] = 0.0
        if not shards:
            self._work.say(f"{name:<11} reused, {total} shards")

    def start(self, name: str) -> None:
        """The stage's next shard is begun."""
        line = self._lines[name]
        if line.task is None:
            line.task, line.began = self._work.add(name, line.total_rows, first=line.done), time.monotonic()

    def advance(self, name: str, rows: int, *, is_last: bool) -> None:
        """A shard of a stage is finished; with the last one its line is left."""
        line = self._lines[name]
        line.done += rows
        if line.task is None:
            return
        self.seconds[name] = time.monotonic() - line.began
        if is_last:
            self._work.set(line.task, line.done, line.total_rows)
            done, elapsed = self._work.end(line.task)
            line.task = None
            rate = f" in {elapsed:.1f} s ({done / elapsed:,.0f} rows/s)" if done and elapsed > 0 else ""
            self._work.say(f"{name:<11} {line.shards} of {line.total} shards, {line.rows:,} rows{rate}")

    def show(self, under_way: Mapping[str, tuple[int, int]]) -> None:
        """Bring the bars up to date. `under_way`: rows finished of shards that are not, and rows begun, by stage."""
        for name, line in self._lines.items():
            if line.task is not None:
                finished, begun = under_way.get(name, (0, 0))
                self._work.set(line.task, line.done + finished, line.total_rows, begun)

    def tick(self, workers: Sequence[WorkerFigures]) -> None:
        """Say how fast the engines are, at half minutes."""
        if time.monotonic() - self._said < SECONDS_A_LINE:
            return
        self._said = time.monotonic()
        engines = [worker for worker in workers if worker.kind == "engine"]
        there = [worker for worker in engines if worker.is_there]
        if len(there) < len(engines):
            self._work.say(f"engines     {len(there)} of {len(engines)} are there, the others are waited for")
        if rates := [f"{_rate(worker):,.1f}" for worker in there if worker.shards]:
            self._work.say(f"engines     rows/s: {', '.join(rates)}")

    def finish(self, workers: Sequence[WorkerFigures]) -> None:
        """Leave a line for each engine."""
        for number, worker in enumerate(worker for worker in workers if worker.kind == "engine"):
            if worker.shards:
                waited = worker.idle_s / max(worker.idle_s + worker.computed_s, 1e-9)
                self._work.say(
                    f"engine {number:<4} {worker.shards} shards, {worker.rows:,} rows ({_rate(worker):,.0f} rows/s), "
                    f"waited {waited:.0%} of the time"
                )


def _rate(worker: WorkerFigures) -> float:
    """Rows a second while it computed."""
    return worker.rows / max(worker.computed_s, 1e-9)
