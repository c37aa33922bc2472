"""A step's precision and casts on a CPU: what saves time changes no bit, or comes closer to float32."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kidcore.models.trees.attention import tree_attention_forward
from kidcore.models.trees.blocks import plan_blocks
from kidcore.models.trees.tree import build_tree
from tests.train.small import make_examples, make_student
from tests.train.test_adapters import adapted_student
from tests.train.test_trainer import config
from train.data.examples import TrainingExample
from train.step import Runner, RunObjective
from train.student.adapters import keep_frozen_cast
from train.student.layout import choose_layout

CPU = torch.device("cpu")


def accumulated(
    model: torch.nn.Module, examples: list[TrainingExample], layout: Any, dtype: torch.dtype | None, pack_tokens: int = 150
) -> dict[str, torch.Tensor]:
    """Losses and gradients of one step."""
    model.zero_grad()
    figures = Runner(model, CPU, layout, pack_tokens, dtype).accumulate(examples, RunObjective.of(config()))
    assert figures.packs > 1
    return {"losses": torch.tensor([figures.mle, figures.kd])} | {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
def test_weights_cast_once_a_step_give_the_same_bits(adapted: bool, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = (adapted_student() if adapted else make_student()).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    examples = make_examples(np.random.default_rng(0), 3, 3, 2)
    assert choose_layout(model, "auto", torch.bfloat16) == "tree"
    once = accumulated(model, examples, "tree", torch.bfloat16)
    monkeypatch.setattr(Runner, "_casts_of_a_step", lambda _: nullcontext())
    assert_equal(once, accumulated(model, examples, "tree", torch.bfloat16))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_checkpointed_pass_keeps_no_casts_of_the_layers_before(checkpointing: bool) -> None:
    model = make_student().train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    assert choose_layout(model, "auto", torch.bfloat16) == "tree"
    keeps: list[bool] = []
    model.model.layers[0].register_forward_pre_hook(lambda *_: keeps.append(torch.is_autocast_cache_enabled()))
    accumulated(model, make_examples(np.random.default_rng(0), 3, 3, 2), "tree", torch.bfloat16)
    # Forward, and again in the backward pass.
    assert set(keeps) == {not checkpointing}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_weights_kept_in_bfloat16_give_the_same_bits(checkpointing: bool) -> None:
    model = adapted_student().train()
    examples = make_examples(np.random.default_rng(1), 3, 3, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.copy_(parameter.bfloat16())
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    assert choose_layout(model, "auto", torch.bfloat16) == "tree"
    expected = accumulated(model, examples, "tree", torch.bfloat16)
    keep_frozen_cast(model, torch.bfloat16)
    given: set[torch.dtype] = set()
    for name, module in model.named_modules():
        if name.endswith("down_proj.lora_A.default"):
            module.register_forward_pre_hook(lambda _module, inputs: given.add(inputs[0].dtype))
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert all((kind == torch.bfloat16) == ("base_layer" in name or "embed" in name) for name, kind in kinds.items()), kinds
    assert_equal(accumulated(model, examples, "tree", torch.bfloat16), expected)
    assert given == {torch.bfloat16}, "what goes into an adapter was widened"


def test_frozen_weights_that_would_lose_digits_stay() -> None:
    model = adapted_student()
    keep_frozen_cast(model, torch.bfloat16)
    # Biases that are zero lose nothing.
    assert {parameter.dtype for parameter in model.parameters() if parameter.ndim == 2} == {torch.float32}


def test_attention_on_a_cpu_rounds_nothing_under_autocast() -> None:
    rng = torch.Generator().manual_seed(0)
    # As rotary embeddings leave them: values come from a bfloat16 product, queries and keys are float32.
    query, key, value = (torch.randn(1, heads, 40, 8, generator=rng) for heads in (4, 2, 2))
    plan = plan_blocks(build_tree([np.arange(40, dtype=np.int32)]).tout)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = tree_attention_forward(nn.Module(), query, key, value.bfloat16(), None, tree_plan=plan)
    expected, _ = tree_attention_forward(nn.Module(), query, key, value.bfloat16().float(), None, tree_plan=plan)
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32


def test_bfloat16_trees_are_as_close_to_float32_as_bfloat16_rows() -> None:
    model = make_student().train()
    examples = make_examples(np.random.default_rng(5), 3, 4, 2)
    exact = accumulated(model, examples, "none", None)
    rows = accumulated(model, examples, "none", torch.bfloat16)
    assert choose_layout(model, "auto", torch.bfloat16) == "tree"
    trees = accumulated(model, examples, "tree", torch.bfloat16)

    def distance(found: dict[str, torch.Tensor]) -> float:
        return float(sum((found[name] - exact[name]).norm() ** 2 for name in exact) ** 0.5)

    # Rows that many sequences share sum their gradients before they are rounded, or after.
    assert distance(trees) < 1.5 * distance(rows)
