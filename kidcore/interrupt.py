"""Ctrl-C, SIGTERM and a terminal that hangs up in; a wish that the training loop grants after its step out."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """While it is open and patient, the first signal is a wish, and the second one raises KeyboardInterrupt at once.

    A terminal that hangs up makes a wish too, and never insists: the shell and the kernel each send a signal for it. Whoever
    had it ignored (`nohup`) keeps that.
    """

    def __init__(self) -> None:
        self.is_made = False
        self.is_patient = False
        """Whether a step is under way whose end is worth waiting for; before that, the first signal raises."""
        self._before: dict[int, Any] = {}

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.is_made and number == signal.SIGHUP:
            return
        if self.is_made or not self.is_patient:
            raise KeyboardInterrupt
        self.is_made = True

    def __enter__(self) -> "StopRequest":
        # Only the main thread may set handlers; a run in another one is stopped by its owner.
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in _SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            # None: it was set by something other than Python, and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
