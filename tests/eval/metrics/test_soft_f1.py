"""BIRD's graded scores against the formulas of its own evaluator, written out."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.soft_f1 import soft_f1, ves_reward

_VALUES = st.sampled_from([0, 1, 2, "a", "b", None, 1.5])


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[object, ...]]:
    width = draw(st.integers(1, 3))
    return draw(st.lists(st.tuples(*[_VALUES] * width), max_size=5))


def slow_soft_f1(gold: list[tuple[object, ...]], pred: list[tuple[object, ...]]) -> float:
    """As mini-dev's evaluation_f1 has it: three lists, one number a row in each, then precision, recall and their mean."""
    if not gold and not pred:
        return 1.0
    gold, pred = list(dict.fromkeys(gold)), list(dict.fromkeys(pred))
    matched: list[float] = []
    pred_only: list[float] = []
    gold_only: list[float] = []
    for number, gold_row in enumerate(gold):
        if number >= len(pred):
            matched.append(0)
            gold_only.append(1)
            continue
        pred_row = pred[number]
        matched.append(sum(value in gold_row for value in pred_row) / len(gold_row))
        pred_only.append(sum(value not in gold_row for value in pred_row) / len(gold_row))
        gold_only.append(sum(value not in pred_row for value in gold_row) / len(gold_row))
    for _row in pred[len(gold) :]:
        matched.append(0)
        pred_only.append(1)
    tp, fp, fn = map(sum, (matched, pred_only, gold_only))
    precision = tp / (tp + fp) if tp + fp else 0
    recall = tp / (tp + fn) if tp + fn else 0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=80, deadline=None)
@given(gold=tables(), pred=tables())
def test_soft_f1_is_the_published_formula(gold: list[tuple[object, ...]], pred: list[tuple[object, ...]]) -> None:
    assert soft_f1(gold, pred) == pytest.approx(slow_soft_f1(gold, pred))
    assert 0 <= soft_f1(gold, pred) <= 1
    assert soft_f1(gold, gold) == 1.0


@settings(max_examples=50, deadline=None)
@given(ratios=st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_a_reward_is_that_of_the_mean_ratio_without_outliers(ratios: list[float]) -> None:
    mean = math.fsum(ratios) / len(ratios)
    spread = 3 * math.sqrt(math.fsum((ratio - mean) ** 2 for ratio in ratios) / len(ratios))
    # With so few repeats nothing can be beyond three deviations.
    assert all(abs(ratio - mean) <= spread + 1e-9 for ratio in ratios)
    if any(abs(mean - edge) < 1e-6 for edge in (2, 1, 0.5, 0.25)):
        return
    wanted = 1.25 if mean > 2 else 1.0 if mean > 1 else 0.75 if mean > 0.5 else 0.5 if mean > 0.25 else 0.25
    assert ves_reward(ratios, [1.0] * len(ratios)) == wanted
    assert ves_reward([1.0] * len(ratios), [1 / ratio for ratio in ratios]) == wanted
