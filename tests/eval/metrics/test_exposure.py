"""Divergences along an answer against the plain sum over a whole vocabulary, and the excess error they add up to."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.exposure import Scores, divergence_by_position, exaccerr, measure, requests
from kidcore.models.backends.base import TopK

VOCABULARY = 7


def distributions(seed: int, length: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(length, VOCABULARY)) * 3
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def top(probabilities: np.ndarray, count: int) -> Scores:
    ids = np.argsort(-probabilities, axis=-1)[:, :count].astype(np.int32)
    logprobs = np.log(np.take_along_axis(probabilities, ids.astype(np.int64), -1)).astype(np.float32)
    return Scores.of(TopK(ids, logprobs, logprobs[:, 0]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 4), ours=st.integers(1, VOCABULARY), theirs=st.integers(1, VOCABULARY))
def test_what_is_known_of_both_bounds_the_whole_divergence_from_below(seed: int, length: int, ours: int, theirs: int) -> None:
    p, q = distributions(seed, length), distributions(seed + 1, length)
    plain = (p * np.log(p / q)).sum(-1)
    found = divergence_by_position(top(p, ours), top(q, theirs))
    assert found.shape == (length,)
    assert (found <= plain + 1e-5 + 1e-4 * plain).all()
    assert (found >= 0).all()
    whole = divergence_by_position(top(p, VOCABULARY), top(q, VOCABULARY))
    assert whole == pytest.approx(plain, rel=1e-4, abs=1e-5)
    more = divergence_by_position(top(p, VOCABULARY), top(q, theirs))
    assert (more <= whole + 1e-5 + 1e-4 * whole).all(), "knowing less of one can't show more"


def test_models_without_a_token_in_common_differ_by_what_is_left() -> None:
    one = Scores([np.array([1], np.int32)], [np.array([math.log(0.9)])], [0.1])
    other = Scores([np.array([2], np.int32)], [np.array([math.log(0.9)])], [0.1])
    assert divergence_by_position(one, other) == pytest.approx([0.0], abs=1e-9), "all of both is one bucket"
    certain = Scores([np.array([1], np.int32)], [np.array([0.0])], [0.0])
    assert math.isfinite(divergence_by_position(certain, other)[0])
    assert math.isfinite(divergence_by_position(other, certain)[0])


def test_half_precision_never_leaves_less_than_nothing_outside() -> None:
    logprobs = np.log(np.array([[0.7, 0.305]])).astype(np.float16)
    assert Scores.of(TopK(np.array([[3, 4]], np.int32), logprobs, logprobs[:, 0])).outside == [0.0]


def test_every_step_weighs_alike_and_only_steps_that_both_reach_count() -> None:
    gold = [np.array([0.1, 0.3]), np.array([0.3])]
    # By step 0.2 and 0.3 on gold, 0.4 and 0.6 on what was generated: twice the error is 100% in excess.
    generated = [np.array([0.4, 0.6, 99.0])]
    assert exaccerr(generated, gold, 64) == pytest.approx(100)
    assert exaccerr(gold, gold, 64) == pytest.approx(0)
    assert exaccerr([np.array([0.1])], gold, 64) == pytest.approx(-50)
    for nothing in ([], [np.array([])], [np.zeros(3)]):
        assert math.isnan(exaccerr(generated, nothing, 64)), "no error a step on gold: the excess is undefined"
    assert math.isnan(exaccerr([], gold, 64))


def test_an_answer_is_asked_for_from_its_first_token_to_its_last() -> None:
    (first, second) = requests([[5, 6], [7]], [[8, 1], [1]])
    assert (first.token_ids.tolist(), first.start) == ([5, 6, 8, 1], 2)
    assert (second.token_ids.tolist(), second.start, second.token_ids.dtype) == ([7, 1], 1, np.int32)
    with pytest.raises(ValueError, match="zip"):
        requests([[1]], [])


def test_a_student_that_errs_more_on_its_own_answers_has_an_excess() -> None:
    p, near, far = distributions(0, 4), distributions(0, 4) * 0.8 + 0.2 / VOCABULARY, distributions(9, 4)
    gold = [(top(p, 5), top(near, 5))]
    assert measure(gold, gold) == pytest.approx(0)
    assert measure(gold, [(top(p, 5), top(far, 5))]) > 50
    first = measure(gold, [(top(p, 5), top(far, 5))], length=1)
    assert first == pytest.approx(
        100 * (divergence_by_position(top(p, 5), top(far, 5))[0] / divergence_by_position(*gold[0])[0] - 1)
    )
