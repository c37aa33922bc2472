"""A first signal is a wish, a second one is obeyed, and afterwards all is as it was found."""

import signal
import threading
from collections.abc import Iterator

import pytest

from kidcore.interrupt import StopRequest

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers_as_found() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may be run under nohup
    found = {number: signal.getsignal(number) for number in ALL}
    yield
    now = {number: signal.getsignal(number) for number in ALL}
    signal.signal(signal.SIGHUP, before)
    assert now == found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_patient_one_remembers_the_first_and_obeys_the_second(number: signal.Signals) -> None:
    with StopRequest() as stop:
        stop.is_patient = True
        signal.raise_signal(number)
        assert stop.is_made
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_before_there_is_a_step_to_wait_for_the_first_is_obeyed() -> None:
    with StopRequest() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert not stop.is_made, "it was no wish"


def test_another_kind_of_signal_counts_as_the_second() -> None:
    with StopRequest() as stop:
        stop.is_patient = True
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_a_terminal_that_hangs_up_makes_a_wish_and_does_not_insist() -> None:
    with StopRequest() as stop:
        stop.is_patient = True
        signal.raise_signal(signal.SIGHUP)
        assert stop.is_made
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_what_runs_under_nohup_does_not_hear_of_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_made
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_was_set_before_is_set_again_whatever_happens_inside() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    try:
        with pytest.raises(ValueError, match="inside"), StopRequest():
            raise ValueError("inside")
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_one_within_another_gives_the_outer_one_its_turn_back() -> None:
    with StopRequest() as outer:
        outer.is_patient = True
        with StopRequest() as inner:
            inner.is_patient = True
            signal.raise_signal(signal.SIGINT)
        assert (inner.is_made, outer.is_made) == (True, False)
        signal.raise_signal(signal.SIGINT)
        assert outer.is_made


def test_in_another_thread_it_sets_nothing_and_does_no_harm() -> None:
    found = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def run() -> None:
        with StopRequest() as stop:
            seen.extend([signal.getsignal(signal.SIGINT), stop.is_made])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [found, False]
