"""Amounts done in; rates and time left out: a bar on a terminal, and a line every half minute where there is none."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

SECONDS_A_LINE = 30.0
_Item = TypeVar("_Item")


class Ticker(Protocol):
    """Takes note of how much is done of how much in all, and of how much is begun and not done."""

    def __call__(self, done: int, total: int, under_way: int = 0, /) -> None: ...


class Pace:
    """How fast something goes, and when it is time to say so again.

    Args:
        total: where it ends.
        first: where it begins: what was done before counts in no rate.
        unit: what is counted, in the plural; `one` in the singular.
        at_once: whether the first amount is worth a line: it says that the work has begun, and how fast.
    """

    def __init__(self, total: int, first: int = 0, *, unit: str = "rows", one: str = "row", at_once: bool = False) -> None:
        self.total = total
        self.first, self._unit, self._one = first, unit, one
        self._began = time.monotonic()
        self._said = -float("inf") if at_once else self._began

    def is_due(self) -> bool:
        """Whether half a minute has passed since this was last so."""
        now = time.monotonic()
        if now - self._said < SECONDS_A_LINE:
            return False
        self._said = now
        return True

    def leave_out(self, seconds: float) -> None:
        """Count `seconds` that just passed in no rate: an engine started in them."""
        self._began += seconds

    def elapsed(self) -> float:
        """Seconds since the beginning, without what was left out."""
        return time.monotonic() - self._began

    def describe(self, done: int, under_way: int = 0) -> str:
        """`12.3 rows/s, 4 min 2 s left`; `64 under way` as long as these outnumber those that are done.

        Rows that are begun together end together: the first of them to end would each seem to have taken all the time so far.
        """
        finished = done - self.first
        if finished < under_way:
            return f"{under_way:,} under way"
        rate = finished / max(1e-9, self.elapsed())
        if rate <= 0:
            return "no rate yet"
        speed = f"{rate:.1f} {self._unit}/s" if rate >= 1 else f"{1 / rate:.1f} s a {self._one}"
        return f"{speed}, {duration(max(0, self.total - done) / rate)} left"


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s" if minutes else f"{rest} s"


class WorkProgress:
    """Pieces of work with names: a bar for each on a terminal, else a line at half minutes; nothing unless `is_shown`."""

    def __init__(self, console: Console, is_shown: bool = True) -> None:
        self.console = console
        self._has_lines = is_shown and not console.is_terminal
        self._paces: dict[TaskID, Pace] = {}
        self._bar = Progress(
            TextColumn("{task.description:<11}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}", style="cyan", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not (is_shown and console.is_terminal),
            transient=True,
        )

    def add(self, name: str, total: int | None = None, *, first: int = 0, one: str = "row") -> TaskID:
        """Begin a piece of work of which `first` is done already; `one` is what is counted."""
        task = self._bar.add_task(name, total=total, completed=first, pace="")
        self._paces[task] = Pace(total or 0, first, unit=f"{one}s", one=one)
        return task

    def ticker(self, name: str, one: str = "row") -> Ticker:
        """Begin a piece of work; the callback moves its line, on which every `one` counts."""
        return partial(self.set, self.add(name, one=one))

    def each(self, name: str, items: Iterable[_Item], total: int, one: str = "row") -> Iterator[_Item]:
        """The items, of which there are `total`; the line of this piece of work moves as each is done with."""
        tick = self.ticker(name, one)
        for done, item in enumerate(items, 1):
            yield item
            tick(done, total)

    def set(self, task: TaskID, done: int, total: int, under_way: int = 0) -> None:
        """So much of a piece is done, and so much more of it is begun."""
        pace = self._paces[task]
        pace.total = total
        said = pace.describe(done, under_way)
        self._bar.update(task, completed=done, total=total, pace=said)
        if self._has_lines and pace.is_due():
            self.say(f"{self._of(task).description:<11} {done:,} of {total:,}, {said}")

    def advance(self, task: TaskID, more: int, under_way: int = 0) -> None:
        """So much more of a piece is done, and so much is begun."""
        now = self._of(task)
        self.set(task, int(now.completed) + more, int(now.total or 0), under_way)

    def end(self, task: TaskID) -> tuple[int, float]:
        """Take a piece away; how much was done since `add`, and in how many seconds, engine starts left out."""
        pace = self._paces.pop(task)
        done = int(self._of(task).completed) - pace.first
        self._bar.remove_task(task)
        return done, pace.elapsed()

    @contextmanager
    def starting(self, what: str) -> Iterator[None]:
        """An engine starts: a step of its own, whose time is in no rate."""
        began = time.monotonic()
        if self._has_lines:
            self.say(f"engine      starting {what}")
        task = self._bar.add_task("engine", total=None, pace="")
        try:
            yield
        finally:
            self._bar.remove_task(task)
        seconds = time.monotonic() - began
        for pace in self._paces.values():
            pace.leave_out(seconds)
        self.say(f"engine      {what} started in {seconds:.1f} s")

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, soft_wrap=True)

    def _of(self, task: TaskID) -> Task:
        return self._bar.tasks[self._bar.task_ids.index(task)]

    def __enter__(self) -> "WorkProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
