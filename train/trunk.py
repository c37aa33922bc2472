"""A causal language model and a pack in; the trunk's hidden states at every row out. The LM head is not run here."""

import logging
from typing import Any, Literal

from torch import Tensor, nn

from kidpipe.errors import KidpipeError
from kidpipe.trees.attention import has_tree_attention, make_plan
from kidpipe.trees.trunk import Layout, ancestor_mask, best_layout, run_trunk, use_tree_attention
from train.packing import Pack

_LOG = logging.getLogger(__name__)


def hidden_states(model: nn.Module, pack: Pack) -> Tensor:
    """The trunk's last hidden states, [B * L, D], rows as the pack's targets number them."""
    if pack.tout_L is None:
        return run_trunk(model, pack.input_ids_BL, pack.position_ids_BL, pack.padding_BL)
    if has_tree_attention(model):
        return run_trunk(model, pack.input_ids_BL, pack.position_ids_BL, make_plan(pack.tout_L.numpy()))
    # A plain pack needs no mask: transformers finds where positions start again, and minds sliding windows.
    mask = ancestor_mask(pack.tout_L) if pack.layout == "tree" else None
    return run_trunk(model, pack.input_ids_BL, pack.position_ids_BL, mask)


def head_of(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [V, D] and bias [V] of the LM head; refuses heads that do more than one matrix product."""
    config: Any = model.config
    for name in ("final_logit_softcapping", "logits_soft_cap", "logit_softcapping"):
        if getattr(config, name, None):
            raise KidpipeError(
                f"the LM head of {config.model_type} soft-caps its logits, and the loss cannot train through that",
                where=f"{name} = {getattr(config, name)} in the student's config.json",
                fix="choose a student without soft-capping, such as Qwen2.5 or Llama",
            )
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        raise KidpipeError(
            f"the LM head is a {type(head).__name__}, and only a linear one can be trained",
            fix="choose another student, or leave lm_head out of the LoRA targets",
        )
    return head.weight, head.bias


def choose_layout(model: nn.Module, packing: Literal["auto", "tree", "plain", "none"]) -> Layout:
    """The layout asked for, or the best that the model serves; says when that is less than a tree.

    On a CPU, a model that can share prompts is switched to tree attention on the way.
    """
    best, reason = best_layout(model)
    if best == "tree":
        use_tree_attention(model)
    ranks: list[Layout] = ["none", "plain", "tree"]
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
