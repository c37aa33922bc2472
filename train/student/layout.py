"""A causal language model and a pack in; the trunk's hidden states at every row out. The LM head is not run here."""

import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kidcore.errors import KidpipeError
from kidcore.models.trees.attention import Mask, has_tree_attention, make_mask
from kidcore.models.trees.layout import PackLayout, best_layout, use_tree_attention
from kidcore.models.trees.trunk import head_is_plain, run_trunk
from train.data.packing import Pack

_LOG = logging.getLogger(__name__)


def hidden_states(model: nn.Module, pack: Pack) -> Tensor:
    """The trunk's last hidden states, [B * L, D], rows as the pack's targets number them."""
    mask: Mask | None = pack.padding_BL
    # A plain pack needs no mask: transformers finds where positions start again, and minds sliding windows.
    if pack.tout is not None and (pack.layout == "tree" or has_tree_attention(model)):
        mask = make_mask(model, pack.tout, pack.input_ids_BL.device)
    return run_trunk(model, pack.input_ids_BL, pack.position_ids_BL, mask)


def refuse_soft_caps(config: Any) -> None:
    """Refuse a model whose configuration has its logits soft-capped, which needs no weights to be known."""
    for name in ("final_logit_softcapping", "logits_soft_cap", "logit_softcapping"):
        if getattr(config, name, None):
            raise KidpipeError(
                f"the LM head of {config.model_type} soft-caps its logits, and the loss cannot train through that",
                where=f"{name} = {getattr(config, name)} in the student's config.json",
                fix="choose a student without soft-capping, such as Qwen2.5 or Llama",
            )


def head_of(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [V, D] and bias [V] of the LM head; refuses heads that do more than one matrix product."""
    refuse_soft_caps(model.config)
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        raise KidpipeError(
            f"the LM head is a {type(head).__name__}, and only a linear one can be trained",
            fix="choose another student, or leave lm_head out of the LoRA targets",
        )
    return head.weight, head.bias


def check_head(model: nn.Module) -> None:
    """Refuse a model whose logits are more than hidden states times the LM head: the loss would train another model."""
    head_of(model)
    config: Any = model.config
    if not head_is_plain(model):
        broken = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
        if broken:
            raise KidpipeError(
                f"the student's weights hold NaN or infinities: {', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''}",
                where="train.student",
                fix="its training has diverged, or the file is damaged: take an earlier one, or download it again",
            )
        raise KidpipeError(
            "the model changes its logits behind the LM head, and the loss cannot train through that",
            where=f"a student of type {config.model_type}",
            fix="choose a student that does not scale its logits, such as Qwen2.5 or Llama",
        )


def choose_layout(
    model: nn.Module, packing: Literal["auto", "tree", "plain", "none"], dtype: torch.dtype | None = None
) -> PackLayout:
    """The layout asked for, or the best that the model serves; says when that is less than a tree.

    A model that can share prompts is switched to tree attention on the way; `dtype` is that of autocast.
    """
    best, reason = best_layout(model)
    if best == "tree" and packing in ("auto", "tree", "plain"):
        use_tree_attention(model, dtype)
    ranks: list[PackLayout] = ["none", "plain", "tree"]
    if packing == "auto":
        if best != "tree":
            _LOG.warning("packing: %s, because %s; prompts are not shared", best, reason)
        return best
    if ranks.index(packing) > ranks.index(best):
        raise KidpipeError(
            f"this model cannot train with packing = {packing}: {reason}",
            where="train.packing",
            fix=f"set train.packing = {best} or auto",
        )
    return packing
