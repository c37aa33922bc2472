"""Step numbers and losses in; a progress bar on a terminal, and a line every half minute elsewhere."""

import logging
import math
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kidcore.console import open_console
from kidcore.progress import Pace

_LOG = logging.getLogger(__name__)


class Display:
    """The bar of one session, or its lines where standard error is no terminal."""

    def __init__(self, num_steps: int, first: int, *, show: bool) -> None:
        console = open_console(stderr=True)
        self._num_steps = num_steps
        self._has_lines = show and not console.is_terminal
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
        self._evaluation, self._start_nll = "", math.nan
        self._pace = Pace(num_steps, first, unit="steps", one="step", at_once=True)

    def step(self, step: int, loss: float) -> None:
        """A step is done."""
        self._bar.update(self._task, completed=step, description=f"loss {loss:.3f}{self._evaluation}")
        if self._has_lines and (self._pace.is_due() or step == self._num_steps):
            said = (step, self._num_steps, loss, self._evaluation, self._pace.describe(step))
            _LOG.info("step %d of %d, loss %.3f%s; %s", *said)

    def evaluated(self, step: int, nll: float) -> None:
        """The holdout was looked at; step 0 is the student as it was given."""
        if step == 0:
            # The look at the student as it was given took its time before the first step, and no step will again.
            self._pace.leave_out(self._pace.elapsed())
        if not math.isfinite(nll):
            return
        if step == 0:
            self.started(nll)
        before = f" ({self._start_nll:.3f} at the start)" if step and math.isfinite(self._start_nll) else ""
        self._evaluation = f", holdout nll {nll:.3f} at step {step}{before}"

    def started(self, nll: float) -> None:
        """What the student as it was given came to, in this session or an earlier one."""
        self._start_nll = nll

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
