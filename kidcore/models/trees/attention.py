"""A model in, the same attending over ancestors out: by blocks on a CPU, by FlexAttention on a GPU, else by a dense mask."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kidcore.models.trees import blocks, flex
from kidcore.models.trees.blocks import Plan, padded, plan_blocks
from kidcore.models.trees.flex import FlexPlan, make_flex_plan
from kidcore.models.trees.tree import Int64

NAME = "kidpipe_tree"


@dataclass(frozen=True)
class RowPlan:
    """One query a row, behind a cache: bool [B, 1, 1, C], which of the row's keys it sees."""

    mask: Tensor


Mask = Plan | FlexPlan | RowPlan | Tensor


def ancestor_mask(tout_L: Tensor) -> Tensor:
    """Bool [1, 1, L, L]: row q sees row k where k <= q < tout[k]."""
    row_L = torch.arange(tout_L.shape[0], device=tout_L.device)
    return ((row_L[None, :] <= row_L[:, None]) & (row_L[:, None] < tout_L[None, :]))[None, None]


def make_mask(model: nn.Module, tout: Int64, device: torch.device) -> Mask:
    """What `model`, on `device`, needs to attend over the ancestors of each row (see kidcore.models.trees.tree)."""
    if not has_tree_attention(model):
        return ancestor_mask(torch.from_numpy(tout).to(device))
    return plan_blocks(padded(tout)) if device.type == "cpu" else make_flex_plan(tout, device)


def tree_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree_plan: Plan | FlexPlan | RowPlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in each layer; without a plan it is transformers' own SDPA."""
    if tree_plan is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    if any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise ValueError("attention scores are changed in a way that tree attention does not know")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings leave float32 beside bfloat16 values; SDPA would cast here too. On a CPU the kernel takes half as
        # long in float32: in bfloat16 it converts its blocks again and again.
        dtype = torch.float32 if query.device.type == "cpu" else torch.get_autocast_dtype(query.device.type)
        query, key, value = (x.to(dtype) for x in (query, key, value))
    if isinstance(tree_plan, Plan):
        output = blocks.attend_blocks(query, key, value, tree_plan, scale)
    elif isinstance(tree_plan, RowPlan):
        output = _attend_rows(query, key, value, tree_plan, scale)
    else:
        output = flex.attend_flex(query, key, value, tree_plan, scale)
    return output.transpose(1, 2).contiguous(), None


def _attend_rows(query: Tensor, key: Tensor, value: Tensor, plan: RowPlan, scale: float) -> Tensor:
    """Attention of [B, H, 1, E] over [B, G, C, E]; heads that share keys are queries beside each other, so none is copied."""
    rows, heads, _, size = query.shape
    grouped = query.view(rows, key.shape[1], heads // key.shape[1], size)
    output = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=plan.mask, scale=scale)
    return output.reshape(rows, heads, 1, size)


def install(model: nn.Module) -> bool:
    """Make `model` attend through `tree_attention_forward`; False where it drops attention weights or can't be changed."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if drops_attention(model):
        return False
    AttentionInterface.register(NAME, tree_attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)  # type: ignore[operator]
    return has_tree_attention(model)


def drops_attention(model: nn.Module) -> bool:
    """Whether the configuration drops attention weights, whatever it calls that (GPT-2's `attn_pdrop` is 0.1 unless told)."""
    config: Any = model.config
    named = [x for name, x in config.to_dict().items() if "drop" in name and ("attn" in name or "attention" in name)]
    return any(isinstance(x, (int, float)) and x > 0 for x in named)


def uninstall(model: nn.Module) -> None:
    """Back to transformers' SDPA."""
    model.set_attn_implementation("sdpa")  # type: ignore[operator]


def has_tree_attention(model: nn.Module) -> bool:
    """Whether `install` changed the model."""
    return bool(getattr(model.config, "_attn_implementation", "") == NAME)
