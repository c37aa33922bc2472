"""Rows finished in, a progress line with rate and time left out (to stderr, and only where someone looks)."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} rows/s" if task.speed else "", style="cyan")


class StageProgress:
    """One line a stage: what was reused, then a bar while it runs."""

    def __init__(self, is_shown: bool) -> None:
        self._console = Console(stderr=True, quiet=not is_shown)
        self._progress = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (is_shown and self._console.is_terminal),
            transient=True,
        )
        self._task: TaskID | None = None
        self._line = ""

    def __enter__(self) -> "StageProgress":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._progress.stop()

    def start(self, name: str, rows: int, reused: int, total: int) -> None:
        """Begin a stage with `rows` to do; `reused` of its `total` shards are finished already."""
        self._task = self._progress.add_task(name, total=rows)
        self._line = (
            f"{name:<11} {total - reused} of {total} shards, {rows:,} rows" if rows else f"{name:<11} reused, {total} shards"
        )

    def advance(self, rows: int) -> None:
        """Note `rows` more as finished."""
        if self._task is not None:
            self._progress.advance(self._task, rows)

    def finish(self) -> None:
        """End the stage and leave its line."""
        if self._task is None:
            return
        task = self._progress.tasks[self._progress.task_ids.index(self._task)]
        elapsed = task.elapsed or 0.0
        speed = f" in {elapsed:.1f} s ({task.completed / elapsed:,.0f} rows/s)" if task.completed and elapsed else ""
        self._progress.remove_task(self._task)
        self._task = None
        self._console.print(self._line + speed, highlight=False)
