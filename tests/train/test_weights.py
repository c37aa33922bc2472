"""Two divergences and weighted positions against a dense float64 reference, value and gradient."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as fewer
from hypothesis import strategies as st
from torch import Tensor

from kidcore.config.train_settings import TrainSettings
from tests.train.test_losses import CASES, REFERENCE, Case
from train.loss.head import Objective, head_loss
from train.loss.weights import divergence_of


def entropy_weight(p: Tensor, _q: Tensor) -> float:
    return 1 - float(torch.exp(torch.special.xlogy(p, p).sum()))


def surplus(p: Tensor, q: Tensor) -> float:
    return max([0.0, *(float(b - a) for a, b in zip(p, q.detach(), strict=True))])


WEIGHTS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "none": lambda _p, _q: 0.0,
    "entropy": entropy_weight,
    "sure_and_wrong": surplus,
}


@pytest.mark.parametrize("weight", WEIGHTS)
@given(case=CASES, flags=st.integers(0, 2**31))
@fewer(max_examples=30, deadline=None)
def test_gold_and_imperfect_positions_have_their_own_divergence_and_weight(weight: str, case: Case, flags: int) -> None:
    t = case.targets
    is_gold = torch.from_numpy(np.random.default_rng(flags).random(len(t.row_M)) < 0.5)
    case.targets = type(t)(t.row_M, t.gold_M, t.count_M, t.ids_MK, t.logprobs_MK, t.tail_M, is_gold)
    values = {"gold_divergence": "skew_forward_kl", "divergence": "skew_reverse_kl", "divergence_parameter": 0.3}
    settings = TrainSettings.model_validate(values | {"position_weight": weight, "position_gain": 3.0})
    objective = Objective(0.7, 1.3, divergence_of(settings, "reverse_kl"))
    inputs = [x.clone().requires_grad_() for x in (case.hidden, case.weight, case.bias)]
    found = head_loss(*inputs, case.targets, objective)
    found.loss.backward()
    expected, gradients = dense(case, is_gold, WEIGHTS[weight])
    assert found.loss.item() == pytest.approx(expected.item(), rel=5e-5, abs=2e-5)
    for mine, theirs in zip(inputs, gradients, strict=True):
        assert mine.grad is not None
        assert (mine.grad.double() - theirs).norm() <= 2e-4 * theirs.norm() + 1e-4


def dense(case: Case, is_gold: Tensor, weight: Callable[[Tensor, Tensor], float]) -> tuple[Tensor, list[Tensor]]:
    """Position by position, as Case.reference."""
    hidden, matrix, bias = (x.double().requires_grad_() for x in (case.hidden, case.weight, case.bias))
    total, t = 0.0 * (hidden.sum() + matrix.sum() + bias.sum()), case.targets
    for i in range(len(t.row_M)):
        log_q = torch.log_softmax(hidden[t.row_M[i]] @ matrix.T + bias, dim=0)
        if t.gold_M[i] >= 0:
            total = total - 0.7 * log_q[t.gold_M[i]]
        if k := int(t.count_M[i]):
            ids, tail = t.ids_MK[i, :k], t.tail_M[i].double()
            p = t.logprobs_MK[i, :k].double().exp()
            p = torch.cat([p / p.sum() * (1 - tail), tail[None]])
            outside = torch.ones(len(log_q), dtype=torch.bool).index_fill(0, ids, False)
            q = torch.cat([log_q[ids].exp(), log_q[outside].exp().sum()[None]])
            name = "skew_forward_kl" if is_gold[i] else "skew_reverse_kl"
            total = total + 1.3 * (1 + 2.0 * weight(p, q)) * REFERENCE[name](p, q)
    total.backward()
    return total.detach(), [x.grad for x in (hidden, matrix, bias) if x.grad is not None]


def test_a_method_that_teaches_gold_alone_has_one_divergence() -> None:
    plain, split = (
        divergence_of(TrainSettings(method="rkd", gold_divergence=name), "reverse_kl") for name in ("auto", "forward_kl")
    )
    assert plain is split
