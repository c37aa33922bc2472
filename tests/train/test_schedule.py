"""Settings in; the numbers behind `auto`, and rates by step, out."""

from pathlib import Path

import pytest

from kidcore.config.train_settings import TrainSettings
from tests.train.small import make_student, save_small_student
from train.schedule import learning_rate, settled


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_student(tmp_path_factory.mktemp("student"))


def test_auto_is_a_number_in_the_identity(student: Path) -> None:
    chosen = settled(TrainSettings(), student)
    assert chosen.learning_rate == 2e-4, "a student of a few thousand weights is no pre-trained one"
    assert chosen.identity()["warmup_steps"] == 10
    # 2e-4 was the default once: it is left out, as in the runs of then.
    assert "learning_rate" not in chosen.identity()
    assert settled(chosen, student) == chosen


@pytest.mark.parametrize(("weights", "rate"), [(494_000_000, 1e-5), (135_000_000, 3.7e-5), (1_540_000_000, 5e-6), (10**11, 5e-6)])
def test_larger_students_move_at_smaller_rates(student: Path, monkeypatch: pytest.MonkeyPatch, weights: int, rate: float) -> None:
    monkeypatch.setattr("train.schedule.count_weights", lambda _: weights)
    assert settled(TrainSettings(), student).learning_rate == rate
    assert settled(TrainSettings(lora_rank=8), student).learning_rate == 2e-4


@pytest.mark.parametrize("rate", [1e-3, 2e-4, 1e-5])
def test_a_number_given_keeps_the_identity_and_the_warm_up_that_it_had(student: Path, rate: float) -> None:
    chosen = settled(TrainSettings(learning_rate=rate), student)
    assert chosen.identity() == ({} if rate == 2e-4 else {"learning_rate": rate})
    assert learning_rate(chosen, 0, 4) == rate


def test_steps_that_warm_up(student: Path) -> None:
    chosen = settled(TrainSettings(learning_rate=1.0, warmup_steps=10), student)
    assert [learning_rate(chosen, step, 100) for step in (0, 4, 9)] == [0.1, 0.5, 1.0]
    assert [learning_rate(chosen, step, 8) for step in (0, 3)] == [0.25, 1.0], "at most half of a run warms up"
    shares = settled(TrainSettings(learning_rate=1.0, warmup_steps=10, warmup=0.5), student)
    assert learning_rate(shares, 24, 100) == 0.5
    assert make_student().num_parameters() < 100_000
