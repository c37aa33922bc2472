"""What a run says while it goes: a line at its end at least, the holdout beside the loss, nothing where it is told not to."""

import logging
import math

import pytest

from train.display import Display


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "train.display")
    return caplog


def test_where_nobody_looks_the_last_step_has_a_line_with_the_holdout(said: pytest.LogCaptureFixture) -> None:
    with Display(3, 0, show=True) as display:
        display.evaluated(0, 2.5)
        display.step(1, 9.0)
        display.evaluated(2, 1.25)
        display.step(2, 8.0)
        display.step(3, 7.0)
    last = said.messages[-1]
    assert last.startswith("step 3 of 3, loss 7.000, holdout nll 1.250 at step 2 (2.500 at the start); ")
    assert len(said.messages) < 4, "not a line a step"


def test_a_run_that_goes_on_still_knows_its_start(said: pytest.LogCaptureFixture) -> None:
    with Display(9, 8, show=True) as display:
        display.started(3.0)
        display.evaluated(8, 1.0)
        display.step(9, 1.0)
    assert "holdout nll 1.000 at step 8 (3.000 at the start)" in said.messages[-1]


def test_without_a_holdout_nothing_is_said_of_one(said: pytest.LogCaptureFixture) -> None:
    with Display(1, 0, show=True) as display:
        display.evaluated(0, math.nan)
        display.step(1, 0.5)
    assert "holdout" not in said.messages[-1]
    assert "nan" not in said.messages[-1]


def test_the_look_at_the_student_as_it_was_given_is_in_no_rate(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("kidcore.progress.time.monotonic", lambda: now[0])
    with Display(10, 0, show=True) as display:
        now[0] += 300
        display.evaluated(0, math.nan)
        now[0] += 5
        display.step(1, 9.0)
    assert said.messages == ["step 1 of 10, loss 9.000; 5.0 s a step, 45 s left"]


def test_a_quiet_run_says_nothing(said: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with Display(2, 0, show=False) as display:
        display.step(1, 1.0)
        display.step(2, 1.0)
    assert said.messages == []
    assert capsys.readouterr() == ("", "")
