"""A Ctrl-C at a place that a test can count on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from train.runlog import RunLog
from train.trainer import _Session


@contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
    """What trains in this block is interrupted at its first evaluation after the start's; `meanwhile` is called at each."""
    look = _Session._evaluate

    def stop(session: _Session, step: int, log: RunLog) -> float:
        meanwhile()
        if step:
            raise KeyboardInterrupt
        return look(session, step, log)

    with monkeypatch.context() as patch:
        patch.setattr(_Session, "_evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            yield
