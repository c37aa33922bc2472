"""Models in half precision in; whether their prompts can be shared out, however loudly they round."""

from typing import Any

import pytest
import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from kidcore.models.trees import layout
from kidcore.models.trees.layout import best_layout, use_tree_attention
from kidcore.models.trees.twin import small_twin

_SMALL = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}


def without_masks(module: torch.nn.Module, *args: object, **more: object) -> object:
    """Attention that looks at all that stands before, whatever the mask says."""
    return sdpa_attention_forward(module, *args[:3], None, **more)  # type: ignore[arg-type]


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is computed in half precision differs by more than is allowed, as it does with some real weights."""
    monkeypatch.setattr(layout, "_HALF_TOLERANCE", -1.0)


@pytest.mark.usefixtures("loud")
@pytest.mark.parametrize(("config", "kind"), [(Qwen2Config, Qwen2ForCausalLM), (LlamaConfig, LlamaForCausalLM)])
def test_a_model_that_rounds_loudly_shares_its_prompts(config: Any, kind: Any) -> None:
    model = kind(config(**_SMALL, num_hidden_layers=3))
    assert best_layout(model.to(torch.bfloat16).eval()) == ("tree", "")
    assert use_tree_attention(model), "its twin has tree attention too"


@pytest.mark.usefixtures("loud")
def test_a_model_that_ignores_masks_shares_none_in_any_precision() -> None:
    AttentionInterface.register("without_masks", without_masks)
    model = Qwen2ForCausalLM(Qwen2Config(**_SMALL, num_hidden_layers=2, attn_implementation="without_masks"))
    for dtype in (torch.float32, torch.bfloat16):
        found, reason = best_layout(model.to(dtype).eval())
        assert found == "none"
        assert "qwen2" in reason


def test_a_small_twin_moves_nobodys_random_numbers() -> None:
    model = Qwen2ForCausalLM(Qwen2Config(**_SMALL, num_hidden_layers=5)).to(torch.bfloat16)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    twin = small_twin(model)
    assert torch.equal(torch.rand(3), expected)
    assert {weight.dtype for weight in twin.parameters()} == {torch.float32}
    assert len(twin.model.layers) == 2  # type: ignore[union-attr, arg-type]
    assert len(model.model.layers) == 5, "the model is as it was"
