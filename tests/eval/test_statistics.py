"""Intervals over questions and seeds together."""

import tracemalloc

import numpy as np
import pytest

from eval.statistics import estimate, estimate_crossed


def test_one_seed_gives_nearly_the_interval_over_questions() -> None:
    values_Q = np.random.default_rng(1).integers(0, 2, 300).astype(float)
    clusters = [f"gold {number // 3}" for number in range(300)]
    crossed, plain = estimate_crossed(values_Q[None], clusters), estimate(values_Q.tolist(), clusters)
    assert (crossed.value, crossed.num_rows, crossed.num_clusters) == (pytest.approx(plain.value), 300, 100)
    assert [crossed.low, crossed.high] == pytest.approx([plain.low, plain.high], abs=0.02)


def test_seeds_that_disagree_widen_it_and_questions_that_share_a_gold_too() -> None:
    random = np.random.default_rng(0)
    agreeing_SQ = np.repeat(random.integers(0, 2, (1, 400)).astype(float), 3, axis=0)
    shifted_SQ = agreeing_SQ + np.array([[-0.2], [0.0], [0.2]])
    alone, together = [str(number) for number in range(400)], [str(number // 20) for number in range(400)]
    by_gold_SQ = np.repeat(random.integers(0, 2, (1, 20)), 20, axis=1).astype(float)

    def width(values_SQ: np.ndarray, clusters: list[str]) -> float:
        found = estimate_crossed(values_SQ, clusters)
        return found.high - found.low

    assert width(shifted_SQ, alone) > 1.5 * width(agreeing_SQ, alone)
    assert width(by_gold_SQ, together) > 2 * width(by_gold_SQ, alone)


def test_questions_without_a_verdict_are_left_out() -> None:
    found = estimate_crossed(np.array([[1.0, np.nan, 0.0], [1.0, 1.0, 0.0]]), ["a", "b", "c"])
    assert (found.value, found.num_rows) == (0.5, 2)
    assert np.isnan(estimate_crossed(np.full((2, 3), np.nan), ["a", "b", "c"]).value)


def test_one_long_gold_does_not_cost_its_length_a_row() -> None:
    clusters = ["x" * 20_000, *map(str, range(2_000))]
    tracemalloc.start()
    try:
        estimate([1.0] * len(clusters), clusters)
        estimate_crossed(np.ones((1, len(clusters))), clusters)
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()
