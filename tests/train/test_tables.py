"""Gradients of embedding and LM head that are added in place are those that autograd brings."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.train.small import make_examples, make_student
from tests.train.test_losses import Case
from tests.train.test_step import accumulated
from train.loss import product
from train.loss.head import Objective, head_loss
from train.loss.losses import divergence
from train.step import Runner
from train.student import tables
from train.student.layout import choose_layout


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_step_in_place_has_autograds_gradients(tied: bool, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = make_examples(np.random.default_rng(0), 3, 3, 2)
    fast, slow = make_student(tied).train(), make_student(tied).train()
    for model in (fast, slow):
        assert choose_layout(model, "auto", dtype) == "tree"
    found = accumulated(fast, examples, "tree", dtype)
    assert type(fast.get_input_embeddings()) is not nn.Embedding
    monkeypatch.setattr(Runner, "_gathers", lambda *_: None)
    for name in ("add_in_place", "multiply_in_place"):
        monkeypatch.setattr(f"train.step.{name}", lambda _model: None)
    expected = accumulated(slow, examples, "tree", dtype)
    assert type(slow.get_input_embeddings()) is nn.Embedding
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("padding_id", [None, 3])
def test_rows_used_again_and_rows_of_padding(padding_id: int | None) -> None:
    torch.manual_seed(0)
    plain, mine = nn.Embedding(20, 8, padding_idx=padding_id), nn.Embedding(20, 8, padding_idx=padding_id)
    mine.load_state_dict(plain.state_dict())
    model: Any = nn.Module()
    model.get_input_embeddings = lambda: mine
    tables.add_in_place(model)
    for seed in range(2):
        ids = torch.randint(0, 6, (3, 40), generator=torch.Generator().manual_seed(seed))
        weights = torch.randn(3, 40, 8)
        for embedding in (plain, mine):
            (embedding(ids) * weights).sum().backward()
    assert plain.weight.grad is not None
    assert mine.weight.grad is not None
    assert torch.allclose(mine.weight.grad, plain.weight.grad, atol=1e-6)
    assert mine.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("changes", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}])
def test_an_embedding_that_does_more_is_left_alone(changes: dict[str, Any]) -> None:
    embedding = nn.Embedding(20, 8, **changes)
    model: Any = nn.Module()
    model.get_input_embeddings = lambda: embedding
    tables.add_in_place(model)
    assert type(embedding) is nn.Embedding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("numbers", [1, 4 << 20])
def test_the_heads_gradient_is_added_to_what_is_there(numbers: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    case, objective = Case(5, 50, 200, 4000, 6, 1.0), Objective(0.7, 1.3, divergence("reverse_kl"))
    weight = case.weight.detach().requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        loss = head_loss(case.hidden.requires_grad_(), weight, None, case.targets, objective).loss
    loss.backward()
    assert weight.grad is not None
    own, hidden_grad = torch.ones_like(weight), case.hidden.grad
    case.hidden.grad = None
    # 4,000 rows in parts of 1,024, or at once.
    monkeypatch.setattr(product, "_NUMBERS", numbers)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        again = head_loss(case.hidden, case.weight.requires_grad_(), None, case.targets, objective, own).loss
    again.backward()
    assert again.item() == loss.item()
    assert case.weight.grad is None
    assert hidden_grad is not None
    assert case.hidden.grad is not None
    assert torch.equal(case.hidden.grad, hidden_grad)
    assert torch.allclose(own - 1, weight.grad, rtol=1e-3, atol=1e-6)
