"""Signals in; runs that stop after a step, keep it, say so, and go on to the same end, out."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kidcore.interrupt import StopRequest
from tests.train.small import save_small_student, write_build
from tests.train.test_trainer import config, lines
from train.data.dataset import Source
from train.trainer import _Session, run


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path]:
    folder = tmp_path_factory.mktemp("build")
    return write_build(folder, parts=2, learnable=True), save_small_student(folder / "student")


@pytest.fixture(autouse=True)
def _no_nohup() -> Iterator[None]:
    """These tests may be run under nohup, which has the signal of a lost terminal ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def _signalled(monkeypatch: pytest.MonkeyPatch, number: int, at: int) -> None:
    """Send this process a signal in the middle of step `at`."""
    real = _Session._step

    def step(self: _Session, number_of_step: int, item: object) -> object:
        if number_of_step == at:
            os.kill(os.getpid(), number)
        return real(self, number_of_step, item)  # type: ignore[arg-type]

    monkeypatch.setattr(_Session, "_step", step)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_step_it_falls_in_and_the_run_goes_on(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(logging.getLogger("train"), "propagate", True)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        _signalled(patch, number, at=3)
        with pytest.raises(KeyboardInterrupt):
            run(config(), *build, tmp_path / "cut")
    assert signal.getsignal(number) == before
    assert "step 3 is saved: the same command continues from there" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run(config(), *build, tmp_path / "cut")
    assert "continuing from step 3" in caplog.text
    run(config(), *build, tmp_path / "whole")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    left, right = (tmp_path / name / "last" / "model.safetensors" for name in ("cut", "whole"))
    assert left.read_bytes() == right.read_bytes()


def test_before_the_first_step_nothing_is_saved_and_that_is_said(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("train"), "propagate", True)

    def stop(*_: object) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not heard")

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(_Session, "_evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config(), *build, tmp_path / "run")
    assert "nothing was saved yet" in caplog.text
    with caplog.at_level(logging.INFO):
        run(config(epochs=3), *build, tmp_path / "run")
    assert "nothing was saved of this run yet: beginning at its start" in caplog.text


def test_the_second_signal_does_not_wait() -> None:
    with StopRequest() as stop:
        stop.is_patient = True
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_made
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_checkpoints_by_time(build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ten-millionth of a minute has always passed."""
    with monkeypatch.context() as patch:
        _signalled(patch, signal.SIGINT, at=3)
        with pytest.raises(KeyboardInterrupt):
            run(config(save_minutes=1e-7), *build, tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000002", "step-00000003"]
