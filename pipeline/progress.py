"""Rows finished in, a line a stage with rate and time left out, on stderr: a bar on a terminal, else a line at half minutes."""

from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import TaskID

from kidcore.progress import WorkProgress


class StageProgress:
    """What was reused of a stage, then how far it is; engine starts are steps of their own."""

    def __init__(self, is_shown: bool) -> None:
        self._work = WorkProgress(Console(stderr=True, quiet=not is_shown), is_shown)
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

    def advance(self, rows: int) -> None:
        """Note `rows` more as finished."""
        if self._task is not None:
            self._work.advance(self._task, rows)

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
