"""Rates and what they are applied to: no jump, never above the peak nor below the least, matrices alone decay."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.config.train_settings import TrainSettings
from tests.train.small import make_student
from train.schedule import learning_rate, make_optimizer

PLAIN = {"learning_rate": 1.0, "warmup_steps": 0}


@settings(max_examples=60, deadline=None)
@given(num_steps=st.integers(1, 60), warmup=st.floats(0, 1), least=st.integers(0, 30), min_lr=st.floats(0, 1))
def test_a_rate_rises_to_the_peak_and_falls_to_the_least(num_steps: int, warmup: float, least: int, min_lr: float) -> None:
    chosen = TrainSettings(learning_rate=1.0, warmup_steps=least, warmup=warmup, min_lr=min_lr)
    rates = [learning_rate(chosen, step, num_steps) for step in range(num_steps)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) <= 1.0
    assert max(rates) == 1.0, "every run meets its peak"
    assert all(rate > 0 or min_lr == 0 for rate in rates)
    assert min(rates[top:]) >= min_lr - 1e-12


def test_without_warm_up_it_is_half_a_cosine() -> None:
    chosen = TrainSettings(**PLAIN, min_lr=0.1, warmup=0.0)
    for step in range(20):
        wanted = 0.1 + 0.9 * (1 + math.cos(math.pi * step / 20)) / 2
        assert learning_rate(chosen, step, 20) == pytest.approx(wanted)
    assert learning_rate(chosen, 25, 20) == pytest.approx(0.1), "past its end a run stays at the least"


def test_matrices_decay_vectors_and_frozen_weights_do_not() -> None:
    model = make_student()
    model.model.layers[0].requires_grad_(False)
    optimizer = make_optimizer(model, TrainSettings(**PLAIN, weight_decay=0.1, beta2=0.95))
    matrices, vectors = optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.ndim >= 2 for parameter in matrices["params"])
    assert all(parameter.ndim < 2 for parameter in vectors["params"])
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert matrices["betas"] == (0.9, 0.95)
    before = [parameter.detach().clone() for parameter in matrices["params"]]
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, parameter in zip(before, matrices["params"], strict=True):
        assert torch.allclose(parameter, old * (1 - matrices["lr"] * 0.1)), "AdamW's decay, which no moment sees"
