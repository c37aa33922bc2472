"""What is kept of a teacher's distributions: enough of them, honestly counted, in the columns' types."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.method.topk import Stored, cut, keep_fewer
from kidcore.models.backends.base import TopK


def answer(probabilities: list[list[float]], ids: list[list[int]] | None = None, actual: list[float] | None = None) -> TopK:
    rows = len(probabilities)
    chosen = ids or [list(range(len(row))) for row in probabilities]
    with np.errstate(divide="ignore"):
        logprobs = np.log(np.array(probabilities)).astype(np.float32)
    return TopK(np.array(chosen, np.int32), logprobs, np.array(actual or [-1.0] * rows, np.float32))


def stored(
    probabilities: list[list[float]], tail_mass: float, vocab_size: int = 100, ids: list[list[int]] | None = None
) -> Stored:
    zeros = np.zeros(len(probabilities), np.int32)
    return cut(answer(probabilities, ids), zeros, zeros, tail_mass, vocab_size)


@pytest.mark.parametrize(
    ("tail_mass", "counts", "tails"),
    [
        (0.0, [4, 4], [0.05, 0.01]),
        (0.06, [4, 2], [0.05, 0.03]),
        (0.2, [3, 1], [0.1, 0.1]),
        (0.45, [2, 1], [0.3, 0.1]),
        (0.99, [1, 1], [0.6, 0.1]),
    ],
)
def test_the_fewest_that_leave_less_than_the_tail(tail_mass: float, counts: list[int], tails: list[float]) -> None:
    found = stored([[0.4, 0.3, 0.2, 0.05], [0.9, 0.07, 0.01, 0.01]], tail_mass)
    assert found.topk_count.tolist() == counts
    np.testing.assert_allclose(found.tail, tails, atol=1e-6)
    assert found.topk_ids.tolist() == list(range(counts[0])) + list(range(counts[1]))
    assert len(found.topk_logprobs) == sum(counts)


def test_the_tail_is_exact_though_the_log_probabilities_are_rounded() -> None:
    peak, second = 0.998, 0.0019
    found = stored([[peak, second]], 0.0)
    np.testing.assert_allclose(found.tail, [1 - peak - second], atol=1e-7)
    rebuilt = 1 - np.exp(found.topk_logprobs.astype(np.float64)).sum()
    assert abs(rebuilt - (1 - peak - second)) > 1e-7, "which float16 could not have told"


def test_a_sum_beyond_one_leaves_no_negative_tail() -> None:
    assert stored([[0.6, 0.5]], 0.0).tail.tolist() == [0.0]


def test_padding_rows_are_left_out_and_their_mass_is_outside() -> None:
    found = stored([[0.5, 0.3, 0.15]], 0.2, vocab_size=10, ids=[[3, 10, 9]])
    assert found.topk_ids.tolist() == [3, 9]
    np.testing.assert_allclose(found.tail, [0.35], atol=1e-6)
    only = stored([[0.7, 0.3]], 0.2, vocab_size=10, ids=[[10, 11]])
    assert (only.topk_count.tolist(), only.topk_ids.tolist(), only.tail.tolist()) == ([0], [], [1.0])


def test_a_probability_of_zero_is_kept_as_minus_infinity() -> None:
    found = stored([[1.0, 0.0]], 0.0)
    assert found.topk_logprobs.tolist() == [0.0, -np.inf]
    assert stored([[1.0, 0.0]], 1e-4).topk_logprobs.tolist() == [0.0]


def test_gold_is_known_where_it_stands_or_is_among_the_best_whether_or_not_it_is_stored() -> None:
    three = answer([[0.9, 0.05, 0.01]] * 4, [[5, 6, 7]] * 4, [-2.0, -3.0, -4.0, -5.0])
    found = cut(three, np.array([8, 8, 8, 5]), np.array([8, 7, 9, 6]), 0.5, 100)
    assert found.topk_count.tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(found.gold_logprob, [-2.0, np.log(0.01), np.nan, np.log(0.05)], rtol=1e-6)
    assert found.actual_logprob.tolist() == [-2.0, -3.0, -4.0, -5.0]


def test_columns_have_the_types_of_the_schema() -> None:
    found = stored([[0.5, 0.5]], 0.0)
    kinds = {name: getattr(found, name).dtype.name for name in Stored.__dataclass_fields__}
    assert kinds == {
        "topk_count": "int16",
        "topk_ids": "int32",
        "topk_logprobs": "float16",
        "tail": "float32",
        "actual_logprob": "float32",
        "gold_logprob": "float32",
    }


def test_no_position_nothing_stored() -> None:
    empty = TopK(np.empty((0, 4), np.int32), np.empty((0, 4), np.float32), np.empty(0, np.float32))
    found = cut(empty, np.empty(0, np.int32), np.empty(0, np.int32), 1e-4, 10)
    assert [len(getattr(found, name)) for name in Stored.__dataclass_fields__] == [0] * 6


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), tail_mass=st.sampled_from([0.0, 1e-3, 0.2]), fewer=st.integers(1, 9))
def test_keeping_fewer_is_what_fewer_would_have_been(seed: int, tail_mass: float, fewer: int) -> None:
    draw = np.random.default_rng(seed)
    peaks = draw.exponential(draw.choice([0.2, 2.0, 8.0], size=(6, 1)), size=(6, 12))
    logprobs = np.sort(-peaks - np.log(np.exp(-peaks).sum(1, keepdims=True)))[:, ::-1].astype(np.float32)
    ids = np.stack([draw.permutation(12) for _ in range(6)]).astype(np.int32)
    actual, gold = ids[:, 1], draw.integers(0, 12, 6).astype(np.int32)

    def scored(top_k: int) -> Stored:
        return cut(TopK(ids[:, :top_k], logprobs[:, :top_k], logprobs[:, 1]), actual, gold, tail_mass, 100)

    found, wanted = keep_fewer(scored(9), fewer), scored(fewer)
    for name in ("topk_count", "topk_ids", "topk_logprobs", "actual_logprob"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        assert getattr(found, name).dtype == getattr(wanted, name).dtype
    # What a 16-bit log-probability of at most 16 is off by, and the float32 of the sums themselves.
    np.testing.assert_allclose(found.tail, wanted.tail, rtol=2**-7, atol=2e-7)
    assert found.tail.dtype == np.float32
    known = ~np.isnan(wanted.gold_logprob)
    np.testing.assert_array_equal(found.gold_logprob[known], wanted.gold_logprob[known])


def test_keeping_as_many_changes_nothing() -> None:
    before = stored([[0.5, 0.3, 0.1], [0.9, 0.05, 0.01]], 0.06)
    after = keep_fewer(before, 3)
    for name in Stored.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
