"""Figures of gold, and when they are too bad to go on without a word."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kidcore.method.knowledge import GoldKnowledge, students_advantage, teachers_faults

ANSWERS = st.lists(st.lists(st.floats(-20, 0, width=32), min_size=2, max_size=9), min_size=1, max_size=6)


def knowing(nll: float, first: float, stop: float) -> GoldKnowledge:
    return GoldKnowledge(1000, nll * 1000, int(first * 1000), 50, stop * 50)


@given(ANSWERS)
def test_sums_of_parts_are_the_sum_of_all(rows: list[list[float]]) -> None:
    logprobs = [np.array(row, dtype=np.float32) for row in rows]
    firsts = [row > -1 for row in logprobs]
    whole = GoldKnowledge.of_answers(logprobs, firsts)
    parts = GoldKnowledge()
    for row, first in zip(logprobs, firsts, strict=True):
        parts += GoldKnowledge.of_answers([row], [first])
    assert np.allclose(whole.sums(), parts.sums())
    assert np.isclose(whole.stop_nll, -np.mean([row[-1] for row in rows]))
    assert np.isclose(whole.answer_nll * len(rows), -sum(map(sum, rows)), rtol=1e-5)
    assert 0 <= whole.first_choice <= 1
    assert GoldKnowledge.from_json(whole.as_json()) == whole


def test_a_teacher_that_knows_gold_and_does_not_stop_is_told_of() -> None:
    assert teachers_faults(knowing(0.3, 0.9, 0.1)) == []
    (fault,) = teachers_faults(knowing(0.34, 0.86, 12.4))
    assert "does not know how to stop" in fault
    assert "kidpipe teacher" in fault
    assert "ingest.chat = auto" in fault
    (fault,) = teachers_faults(knowing(2.5, 0.3, 0.1))
    assert "knows gold badly" in fault


def test_a_student_ahead_of_its_teacher_is_told_of() -> None:
    teacher = knowing(0.5, 0.85, 0.2)
    assert students_advantage(knowing(0.9, 0.7, 4.0), teacher) == []
    assert students_advantage(knowing(0.49, 0.86, 0.1), teacher) == [], "within the noise of a holdout"
    assert "knows gold better" in students_advantage(knowing(0.3, 0.9, 0.2), teacher)[0]
    assert "when to stop" in students_advantage(knowing(0.6, 0.8, 0.3), knowing(0.5, 0.85, 12.4))[0]


def test_nothing_is_said_of_nothing() -> None:
    nothing = GoldKnowledge()
    assert math.isnan(nothing.stop_probability)
    assert teachers_faults(nothing) == students_advantage(nothing, nothing) == []
    assert GoldKnowledge.from_json({"tokens": "x"}) is GoldKnowledge.from_json(None) is None
