"""What is kept of a teacher's distributions: enough of them, honestly counted, in the columns' types."""

import numpy as np
import pytest

from kidcore.method.topk import Stored, cut
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
