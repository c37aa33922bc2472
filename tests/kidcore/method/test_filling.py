"""What is asked of a predictor for the holes of a query, and what of its answer is put there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kidcore.config.stage_settings import PredictSettings
from kidcore.method.filling import fill, predictions, proposal, put, request, verify, wanted
from kidcore.models.backends.base import TopK
from kidcore.models.tokenizers import Tokens

Ids = NDArray[np.int32]
MASK = 99


def ids(*values: int) -> Ids:
    return np.array(values, dtype=np.int32)


def tokens(*banned: int, vocab_size: int = 100) -> Tokens:
    return Tokens(MASK, 98, vocab_size, frozenset(banned))


def answer(*rows: list[int]) -> TopK:
    """Candidates of each position, best first, with falling log-probabilities."""
    width = len(rows[0])
    logprobs = np.tile(-np.arange(width, dtype=np.float32), (len(rows), 1))
    return TopK(np.array(rows, np.int32), logprobs, -np.arange(len(rows), dtype=np.float32))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_request_is_prompt_and_masked_sql_up_to_the_last_hole() -> None:
    gold = ids(10, 11, 12, 13, 14)
    asked = request(ids(1, 2, 3), gold, ids(1, 3), MASK)
    assert asked.token_ids.tolist() == [1, 2, 3, 10, MASK, 12, MASK]
    assert asked.start == 3 + 1, "scored from the first hole on"
    assert asked.token_ids.dtype == np.int32
    assert gold.tolist() == [10, 11, 12, 13, 14], "gold itself is left alone"


@settings(max_examples=40)
@given(length=st.integers(1, 9), prompt=st.integers(1, 4), data=st.data())
def test_every_hole_is_among_the_scored_positions_and_sees_no_gold_of_a_hole(
    length: int, prompt: int, data: st.DataObject
) -> None:
    masked = ids(*sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1))))
    asked = request(np.arange(prompt, dtype=np.int32), np.arange(10, 10 + length, dtype=np.int32), masked, MASK)
    assert len(asked.token_ids) == prompt + masked[-1] + 1
    assert asked.start == prompt + masked[0]
    assert np.flatnonzero(asked.token_ids == MASK).tolist() == (prompt + masked).tolist()


@pytest.mark.parametrize(
    ("top_k", "banned", "vocab_size", "asked"), [(10, 3, 500, 13), (10, 400, 500, 42), (10, 3, 11, 11), (1, 0, 5, 1)]
)
def test_so_many_are_asked_for_that_enough_remain(top_k: int, banned: int, vocab_size: int, asked: int) -> None:
    assert wanted(top_k, tokens(*range(banned)), vocab_size) == asked


def test_banned_ids_and_padding_rows_are_left_out_and_the_order_stays() -> None:
    found = predictions(answer([98, 4, 120, 7, 5]), ids(3), 3, tokens(98))
    assert found.ids.tolist() == [[4, 7, 5]]
    assert found.logprobs.tolist() == [[-1.0, -3.0, -4.0]]


def test_where_fewer_are_left_minus_one_stands_for_none() -> None:
    found = predictions(answer([98, 4, 99]), ids(0), 3, tokens(98, 99))
    assert found.ids.tolist() == [[4, -1, -1]]
    assert found.logprobs.tolist() == [[-1.0, -np.inf, -np.inf]]
    none = predictions(answer([98, 99]), ids(0), 2, tokens(98, 99))
    assert none.ids.tolist() == [[-1, -1]]


def test_only_the_rows_of_holes_are_taken_counted_from_the_first() -> None:
    found = predictions(answer([10, 1], [11, 1], [12, 1], [13, 1]), ids(5, 6, 8), 1, tokens())
    assert found.ids[:, 0].tolist() == [10, 11, 13]
    assert found.actual_logprob.tolist() == [0.0, -1.0, -3.0]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sets(st.integers(0, 29), max_size=20))
def test_predictions_are_what_a_loop_over_each_hole_gives(seed: int, top_k: int, banned: set[int]) -> None:
    generator = np.random.default_rng(seed)
    scored = answer(*(generator.permutation(30)[:10].tolist() for _ in range(4)))
    masked = ids(2, 3, 5)
    found = predictions(scored, masked, top_k, tokens(*banned, vocab_size=25))
    for hole, place in enumerate((0, 1, 3)):
        slow = [(i, p) for i, p in zip(scored.ids[place], scored.logprobs[place], strict=True) if i not in banned and i < 25][
            :top_k
        ]
        slow += [(-1, -np.inf)] * (min(top_k, 10) - len(slow))
        assert list(zip(found.ids[hole], found.logprobs[hole], strict=True)) == slow


HOLES = TopK(ids(4, 7, 9).reshape(1, 3), np.array([[-0.1, -3, -4]], np.float32), np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("settings", "gold", "filled"),
    [
        (PredictSettings(), 4, 7),
        (PredictSettings(), 8, 4),
        (PredictSettings(predictor="student"), 4, 4),
        (PredictSettings(fill="argmax"), 4, 4),
        (PredictSettings(fill="argmax_wrong", predictor="student"), 4, 7),
        (PredictSettings(fill="verify"), 4, 4),
        (PredictSettings(fill="verify", propose="argmax_wrong"), 4, 7),
    ],
)
def test_who_fills_decides_what_auto_takes(settings: PredictSettings, gold: int, filled: int) -> None:
    assert fill(settings, HOLES, ids(gold), rng()).tolist() == [filled]


@pytest.mark.parametrize("rule", ["argmax", "argmax_wrong", "sample"])
def test_where_nothing_is_allowed_gold_stays(rule: str) -> None:
    none = TopK(ids(-1, -1).reshape(1, 2), np.full((1, 2), -np.inf, np.float32), np.zeros(1, np.float32))
    filled = fill(PredictSettings.model_validate({"fill": rule}), none, ids(5), rng())
    assert filled.tolist() == [5]
    assert filled.dtype == np.int32


def test_a_sample_is_never_padding() -> None:
    padded = TopK(ids(3, -1, -1).reshape(1, 3), np.array([[-9, -np.inf, -np.inf]], np.float32), np.zeros(1, np.float32))
    drawn = {int(fill(PredictSettings(fill="sample"), padded, ids(5), np.random.default_rng(seed))[0]) for seed in range(50)}
    assert drawn == {3}


def test_a_low_temperature_takes_the_best_and_the_same_rng_the_same() -> None:
    cold = PredictSettings(fill="sample", temperature=1e-3)
    assert {int(fill(cold, HOLES, ids(1), np.random.default_rng(seed))[0]) for seed in range(50)} == {4}
    warm = PredictSettings(fill="sample", temperature=10.0)
    assert fill(warm, HOLES, ids(1), rng()).tolist() == fill(warm, HOLES, ids(1), rng()).tolist()
    assert {int(fill(warm, HOLES, ids(1), np.random.default_rng(seed))[0]) for seed in range(50)} == {4, 7, 9}


def test_no_hole_no_token() -> None:
    empty = TopK(np.empty((0, 3), np.int32), np.empty((0, 3), np.float32), np.empty(0, np.float32))
    for rule in ("argmax", "argmax_wrong", "sample"):
        assert fill(PredictSettings.model_validate({"fill": rule}), empty, ids(), rng()).tolist() == []


def test_a_proposal_is_what_a_student_wrote_up_to_its_last_hole() -> None:
    asked = proposal(ids(1, 2), ids(10, 50, 12, 51, 14), ids(1, 3))
    assert asked.token_ids.tolist() == [1, 2, 10, 50, 12, 51]
    assert asked.start == 2 + 1


def test_a_proposal_stays_where_it_is_among_so_many_of_the_best() -> None:
    holes = TopK(np.array([[4, 7, 9], [4, 7, 9], [4, 7, 9]], np.int32), np.zeros((3, 3), np.float32), np.zeros(3, np.float32))
    filled, accepted = verify(PredictSettings(fill="verify"), 2, ids(7, 9, 5), holes, ids(1, 1, 1), rng())
    assert accepted.tolist() == [True, False, False], "the third best is not among two"
    assert filled.tolist() == [7, 4, 4]
    filled, accepted = verify(
        PredictSettings(fill="verify", propose="argmax_wrong"),
        2,
        ids(9),
        TopK(*(x[:1] for x in (holes.ids, holes.logprobs, holes.actual_logprob))),
        ids(4),
        rng(),
    )
    assert (filled.tolist(), accepted.tolist()) == ([7], [False])


def test_predictions_go_into_their_holes_and_gold_is_left_alone() -> None:
    gold = ids(10, 11, 12)
    assert put(gold, ids(0, 2), ids(5, 6)).tolist() == [5, 11, 6]
    assert put(gold, ids(), ids()).tolist() == gold.tolist() == [10, 11, 12]
    assert put(gold, ids(0), ids(5)) is not gold
