"""What an engine refuses before any work, and the order that all engines answer in."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Sampling, ScoreRequest, check_prompts, check_score, in_ranked_order


@dataclass
class Bounds:
    """The two numbers of a backend that requests are held against."""

    vocab_size: int = 10
    max_length: int = 6


def scored(ids: list[int], start: int) -> ScoreRequest:
    return ScoreRequest(np.array(ids, np.int32), start)


def test_what_fits_passes() -> None:
    check_score(Bounds(), [scored([0, 9], 1), scored([1] * 6, 5)], 10)  # type: ignore[arg-type]
    check_score(Bounds(), [], 1)  # type: ignore[arg-type]
    check_prompts(Bounds(), [[0], [9] * 5], 1, Sampling(0.5, 0, 3))  # type: ignore[arg-type]
    check_prompts(Bounds(), [], 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "top_k", "said", "where"),
    [
        (scored([1, 2], 1), 0, "K = 0 is outside 1 to 10", ""),
        (scored([1, 2], 1), 11, "K = 11 is outside 1 to 10", ""),
        (scored([1, 2], 0), 1, "nothing to score: start 0 in a sequence of 2", "request 1"),
        (scored([1, 2], 2), 1, "nothing to score: start 2", "request 1"),
        (scored([1, 2], -1), 1, "nothing to score: start -1", "request 1"),
        (scored([], 1), 1, "an empty sequence", "request 1"),
        (scored([1] * 7, 1), 1, "a sequence of 7 tokens is longer than the model takes \\(6\\)", "request 1"),
        (scored([1, 10], 1), 1, "token ids run from 1 to 10, the model's vocabulary from 0 to 9", "request 1"),
        (scored([-1, 2], 1), 1, "token ids run from -1 to 2", "request 1"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_its_place(request_: ScoreRequest, top_k: int, said: str, where: str) -> None:
    with pytest.raises(KidpipeError, match=said) as caught:
        check_score(Bounds(), [scored([1, 2], 1), request_], top_k)  # type: ignore[arg-type]
    assert caught.value.where == where
    assert caught.value.fix


@pytest.mark.parametrize(
    ("prompt", "tokens", "sampling", "said"),
    [
        ([1], 0, None, "0 new tokens were asked for"),
        ([1], -3, None, "-3 new tokens"),
        ([1], 1, Sampling(0.0, 0), "1 samples at temperature 0.0"),
        ([1], 1, Sampling(-1.0, 0), "temperature -1.0"),
        ([1], 1, Sampling(1.0, 0, 0), "0 samples"),
        ([1], 1, Sampling(float("nan"), 0), "temperature nan"),
        ([], 1, None, "an empty sequence"),
        ([1] * 6, 1, None, "leaves no room to generate \\(limit 6\\)"),
        ([1] * 7, 1, None, "longer than the model takes"),
        ([10], 1, None, "token ids run from 10 to 10"),
        ([2**31], 1, None, "token ids run from 2147483648"),
        ([-(2**40)], 1, None, "token ids run from -1099511627776"),
    ],
)
def test_what_cannot_be_continued_is_refused(prompt: list[int], tokens: int, sampling: Sampling | None, said: str) -> None:
    with pytest.raises(KidpipeError, match=said):
        check_prompts(Bounds(), [[1], prompt], tokens, sampling)  # type: ignore[arg-type]


def test_each_answer_has_a_seed_of_its_own_that_prompt_number_and_seed_decide() -> None:
    draw = Sampling(1.0, 7)
    seeds = {
        draw.seed_of([1, 2], 0),
        draw.seed_of([1, 2], 1),
        draw.seed_of([1, 2, 3], 0),
        draw.seed_of([2, 1], 0),
        Sampling(1.0, 8).seed_of([1, 2], 0),
        draw.seed_of([], 0),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert draw.seed_of([1, 2], 0) == Sampling(0.3, 7).seed_of(np.array([1, 2], np.int64).tolist(), 0)
    assert draw.seed_of([1, 2], 0) == 2244511125422868981, "what stores hold was drawn so"


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 8))
def test_ranks_are_by_probability_and_ties_by_the_lower_id(seed: int, rows: int, top_k: int) -> None:
    rng = np.random.default_rng(seed)
    ids = np.array([rng.permutation(50)[:8] for _ in range(rows)], np.int32)
    logprobs = -rng.integers(0, 3, size=ids.shape).astype(np.float32)
    found_ids, found = in_ranked_order(ids, logprobs, top_k)
    for row in range(rows):
        slow = sorted(zip(-logprobs[row], ids[row], strict=True))[:top_k]
        assert found_ids[row].tolist() == [index for _value, index in slow]
        assert found[row].tolist() == [-value for value, _index in slow]


def test_ids_come_out_with_minus_infinity_last() -> None:
    ids, logprobs = in_ranked_order(np.array([[3, 1, 2]], np.int32), np.array([[-np.inf, -1, -np.inf]], np.float32), 3)
    assert ids.tolist() == [[1, 2, 3]]
    assert logprobs.tolist() == [[-1.0, -np.inf, -np.inf]]
