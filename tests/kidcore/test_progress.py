"""Amounts and a clock in; lines at half minutes with rates that leave engine starts out."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from kidcore import progress
from kidcore.console import open_console
from kidcore.progress import Pace, WorkProgress, duration


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass on a clock of the test's own."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def _work(is_shown: bool = True) -> tuple[WorkProgress, io.StringIO]:
    written = io.StringIO()
    return WorkProgress(Console(file=written, quiet=not is_shown), is_shown), written


def test_a_log_gets_a_line_every_half_minute(wait: Callable[[float], None]) -> None:
    work, written = _work()
    with work:
        task = work.add("predict", 1000)
        for _second in range(100):
            wait(1)
            work.advance(task, 2)
        assert work.end(task) == (200, 100.0)
    assert [line.split() for line in written.getvalue().splitlines()] == [
        ["predict", "60", "of", "1,000,", "2.0", "rows/s,", "7", "min", "50", "s", "left"],
        ["predict", "120", "of", "1,000,", "2.0", "rows/s,", "7", "min", "20", "s", "left"],
        ["predict", "180", "of", "1,000,", "2.0", "rows/s,", "6", "min", "50", "s", "left"],
    ]


def test_an_engine_start_is_a_step_and_in_no_rate(wait: Callable[[float], None]) -> None:
    work, written = _work()
    with work:
        task = work.add("predict", 100)
        with work.starting("the engine with big"):
            wait(600)
        wait(31)
        work.advance(task, 31)
        assert work.end(task) == (31, 31.0)
    assert written.getvalue().splitlines() == [
        "engine      starting the engine with big",
        "engine      the engine with big started in 600.0 s",
        "predict     31 of 100, 1.0 rows/s, 1 min 9 s left",
    ]


def test_what_was_done_before_counts_in_the_place_and_not_in_the_rate(wait: Callable[[float], None]) -> None:
    work, written = _work()
    task = work.add("score", 1000, first=900)
    wait(40)
    work.advance(task, 10)
    assert written.getvalue().split() == ["score", "910", "of", "1,000,", "4.0", "s", "a", "row,", "6", "min", "0", "s", "left"]
    assert work.end(task) == (10, 40.0)


def test_rows_that_are_begun_together_have_no_rate_before_most_of_them_are_done(wait: Callable[[float], None]) -> None:
    work, written = _work()
    task = work.add("generate", 120)
    for done, under_way, seconds in ((0, 64, 40), (1, 119, 71), (60, 59, 30), (59, 0, 30)):
        wait(seconds)
        work.advance(task, done, under_way)
    assert [line.split(", ", 1)[1] for line in written.getvalue().splitlines()] == [
        "64 under way",
        "119 under way",
        "2.3 s a row, 2 min 16 s left",
        "1.4 s a row, 0 s left",
    ]


def test_a_terminal_shows_the_same_rate_as_a_log(wait: Callable[[float], None]) -> None:
    written = io.StringIO()
    work = WorkProgress(Console(file=written, force_terminal=True, width=80, color_system=None))
    with work:
        task = work.add("databases", 10, one="database")
        wait(8)
        work.advance(task, 4, 2)
    shown = written.getvalue()
    assert "4/10" in shown
    assert "2.0 s a database, 12 s left" in shown


def test_a_ticker_moves_a_line_of_its_own(wait: Callable[[float], None]) -> None:
    work, written = _work()
    tick = work.ticker("schemas", "schema")
    wait(40)
    tick(20, 100)
    assert written.getvalue() == "schemas     20 of 100, 2.0 s a schema, 2 min 40 s left\n"


def test_each_item_moves_the_line_once_it_is_done_with(wait: Callable[[float], None]) -> None:
    work, written = _work()
    for _item in work.each("schemas", "abcd", 4, "schema"):
        wait(20)
    assert written.getvalue().splitlines() == [
        "schemas     2 of 4, 20.0 s a schema, 40 s left",
        "schemas     4 of 4, 20.0 s a schema, 0 s left",
    ]


def test_a_piece_of_work_is_called_as_it_is(wait: Callable[[float], None]) -> None:
    written = io.StringIO()
    with WorkProgress(open_console(file=written, force_terminal=True, width=80, color_system=None)) as work:
        work.add("[eu] :cat: [/b]", 10)
        with work.starting("m[1] :dog:"):
            wait(8)
    assert "[eu] :cat: [/b]" in written.getvalue()
    assert "engine      m[1] :dog: started in 8.0 s" in written.getvalue()


def test_nothing_is_said_where_nothing_is_to_be_shown(wait: Callable[[float], None]) -> None:
    work, written = _work(is_shown=False)
    with work, work.starting("an engine"):
        task = work.add("score", 1000)
        wait(100)
        work.advance(task, 10)
    assert written.getvalue() == ""


def test_a_pace_without_progress_has_no_rate(wait: Callable[[float], None]) -> None:
    pace = Pace(10)
    wait(5)
    assert pace.describe(0) == "no rate yet"
    assert (duration(59.6), duration(3599), duration(7260)) == ("1 min 0 s", "59 min 59 s", "2 h 1 min")
