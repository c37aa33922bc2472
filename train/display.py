"""Step numbers and losses in; a progress bar with the time left out, on a terminal only."""

import math
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Display:
    """The bar of one session. Silent where standard error is no terminal."""

    def __init__(self, num_steps: int, first: int, *, show: bool) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (show and console.is_terminal),
        )
        self._task = self._bar.add_task("", total=num_steps, completed=first)
        self._evaluation = ""

    def step(self, step: int, loss: float) -> None:
        """A step is done."""
        self._bar.update(self._task, completed=step, description=f"loss {loss:.3f}{self._evaluation}")

    def evaluated(self, step: int, nll: float) -> None:
        """The holdout was looked at."""
        if math.isfinite(nll):
            self._evaluation = f", holdout nll {nll:.3f} at step {step}"

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
