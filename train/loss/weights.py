"""A run's settings in; its divergence out: one for gold and one for imperfect SQL, and some positions counting more than others.

Shapes as in train.loss.losses: N positions, K stored teacher ids.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kidcore.config.train_settings import TrainSettings
from kidcore.method.methods import looks_at
from train.loss.losses import Divergence, DivergenceSum, Masses, divergence, teacher_doubt

Importance = Callable[[Masses], Tensor]


def divergence_of(settings: TrainSettings, own: str) -> Divergence:
    """What `settings` ask for, where `own` is the divergence of the method itself."""
    names = [settings.divergence, settings.gold_divergence if looks_at(settings.method, "gold_divergence") else "auto"]
    imperfect = own if names[0] == "auto" else names[0]
    gold = imperfect if names[1] == "auto" else names[1]
    chosen = divergence(imperfect, settings.divergence_parameter)
    if gold != imperfect:
        chosen = by_source(divergence(gold, settings.divergence_parameter), chosen)
    if settings.position_weight != "none":
        chosen = weighted(chosen, IMPORTANCE[settings.position_weight], settings.position_gain)
    return chosen


def by_source(gold: Divergence, imperfect: Divergence) -> Divergence:
    """One divergence on gold SQL and another on imperfect SQL, as DistiLLM-2 has (Ko et al. 2025, arXiv 2503.07067).

    There it is skewed forward KL on the teacher's sequences, which pulls the student up where the teacher is, and skewed reverse
    KL on the student's, which pushes it down where the teacher is not.
    """

    def chosen(x: Masses) -> DivergenceSum:
        assert x.is_gold_N is not None, "the targets do not say which of them are gold"
        one, other = gold(x), imperfect(x)
        return DivergenceSum(
            torch.where(x.is_gold_N, one.value_N, other.value_N),
            torch.where(x.is_gold_N[:, None], one.a_NK, other.a_NK),
            torch.where(x.is_gold_N, one.a_tail_N, other.a_tail_N),
            torch.where(x.is_gold_N, one.w_tail_N, other.w_tail_N),
        )

    return chosen


def weighted(inner: Divergence, importance: Importance, gain: float) -> Divergence:
    """Positions count once, and up to `gain` times as their importance (0 to 1) grows; no gradient goes through the weight.

    The sum is divided by the number of positions all the same: a weight is more of the divergence, not less of the rest.
    """

    def scaled(x: Masses) -> DivergenceSum:
        weight_N, result = 1 + (gain - 1) * importance(x), inner(x)
        return DivergenceSum(
            weight_N * result.value_N,
            weight_N[:, None] * result.a_NK,
            weight_N * result.a_tail_N,
            weight_N * result.w_tail_N,
        )

    return scaled


def sure_and_wrong(x: Masses) -> Tensor:
    """The most that the student believes in one stored id, or in the tail, beyond what the teacher does.

    1 where it is sure and wrong, near 0 where it agrees and where it is merely unsure. Such positions are few and carry much of
    the lesson (TIP, Xu et al. 2026, arXiv 2604.14084: low entropy of the student at high divergence).
    """
    inside_N = (x.q_NK - x.p_NK).amax(-1)
    return torch.maximum(inside_N, x.q_tail_N - x.p_tail_N).clamp(0.0, 1.0)


# Where the teacher is in doubt stands what it knows beyond gold (arXiv 2603.07079).
IMPORTANCE: dict[str, Importance] = {"entropy": teacher_doubt, "sure_and_wrong": sure_and_wrong}
