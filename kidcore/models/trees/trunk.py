"""A causal language model and a row of tokens in; the trunk's hidden states out. The LM head is not run here."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from kidcore.models.trees.attention import Mask, RowPlan
from kidcore.models.trees.blocks import Plan
from kidcore.models.trees.flex import FlexPlan

# Two ways to the same logits differ by rounding alone, in half precision by more.
_TOLERANCE = 2e-2


def run_trunk(model: nn.Module, input_ids_BL: Tensor, position_ids_BL: Tensor, mask: Mask | None, cache: Any = None) -> Tensor:
    """The last hidden states, [B * L, D]; `mask` is a padding mask [B, L], a dense mask [1, 1, L, L] or a plan.

    A `cache` is told the keys and values of each layer, and answers with those to attend to.
    """
    trunk: Any = trunk_of(model)
    num_rows = input_ids_BL.shape[1]
    arguments: dict[str, Any] = {"attention_mask": mask}
    if isinstance(mask, Plan | FlexPlan | RowPlan):
        # A 4-D mask is passed through untouched; tree attention looks at the plan only.
        arguments = {"attention_mask": input_ids_BL.new_ones(1, 1, 1, 1, dtype=torch.bool), "tree_plan": mask}
    if isinstance(mask, Plan | FlexPlan):
        input_ids_BL, position_ids_BL = (pad(x, (0, mask.num_rows - num_rows)) for x in (input_ids_BL, position_ids_BL))
    arguments |= {"past_key_values": cache, "use_cache": cache is not None}
    output = trunk(input_ids=input_ids_BL, position_ids=position_ids_BL, **arguments)
    hidden_BLD: Tensor = output.last_hidden_state
    return hidden_BLD[:, :num_rows].flatten(0, 1)


def trunk_of(model: nn.Module) -> nn.Module:
    """The model without its LM head."""
    causal: Any = causal_of(model)
    trunk: nn.Module = causal.get_decoder()
    return trunk


def causal_of(model: nn.Module) -> nn.Module:
    """The causal language model inside peft's wrapper, if there is one."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def head_is_plain(model: nn.Module) -> bool:
    """Whether the model's logits are its hidden states times its LM head, plus a bias: neither scaled nor capped."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        return False
    ids_1L = (torch.arange(1, 9, device=head.weight.device) % head.weight.shape[0])[None]
    was_training = model.training
    model.eval()
    try:
        logits_LV = causal_of(model)(input_ids=ids_1L, use_cache=False).logits[0].float()
        product_LV = head(run_trunk(model, ids_1L, torch.arange(8, device=ids_1L.device)[None], None)).float()
    finally:
        model.train(was_training)
    return bool((logits_LV - product_LV).norm() <= _TOLERANCE * product_LV.norm())
