"""A causal language model and a pack in; the trunk's hidden states at every row out. The LM head is not run here.

Tree packs need attention that takes an arbitrary mask. Which layout a model can serve is read from its configuration and
then tried on a few tokens, because a model that ignores the mask says nothing.
"""

import logging
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from kidpipe.errors import KidpipeError
from train.attention import Plan, has_tree_attention, install, make_plan, uninstall
from train.packing import Layout, Pack
from train.tree import build_tree

_LOG = logging.getLogger(__name__)
# Largest difference of a hidden state from separate sequences, relative to the largest hidden state.
_PROBE_TOLERANCE = 1e-3


def ancestor_mask(tout_L: Tensor) -> Tensor:
    """Bool [1, 1, L, L]: row q sees row k where k <= q < tout[k]."""
    row_L = torch.arange(tout_L.shape[0], device=tout_L.device)
    return ((row_L[None, :] <= row_L[:, None]) & (row_L[:, None] < tout_L[None, :]))[None, None]


def hidden_states(model: nn.Module, pack: Pack) -> Tensor:
    """The trunk's last hidden states, [B * L, D], rows as the pack's targets number them."""
    if pack.tout_L is None:
        return _run_trunk(model, pack.input_ids_BL, pack.position_ids_BL, pack.padding_BL)
    if has_tree_attention(model):
        return _run_trunk(model, pack.input_ids_BL, pack.position_ids_BL, make_plan(pack.tout_L.numpy()))
    # A plain pack needs no mask: transformers finds where positions start again, and minds sliding windows.
    mask = ancestor_mask(pack.tout_L) if pack.layout == "tree" else None
    return _run_trunk(model, pack.input_ids_BL, pack.position_ids_BL, mask)


def trunk_of(model: nn.Module) -> nn.Module:
    """The model without its LM head."""
    causal: Any = causal_of(model)
    trunk: nn.Module = causal.get_decoder()
    return trunk


def causal_of(model: nn.Module) -> nn.Module:
    """The causal language model inside peft's wrapper, if there is one."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else model


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
    best, reason = _best_layout(model)
    if (
        best == "tree"
        and next(model.parameters()).device.type == "cpu"
        and install(model)
        and not _agrees_with_rows(model, "tree")
    ):
        _LOG.warning("attention: dense masks, because this model does not run tree attention")
        uninstall(model)
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


def _best_layout(model: nn.Module) -> tuple[Layout, str]:
    config: Any = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    name = config.model_type
    if not kinds <= {"full_attention", "sliding_attention"}:
        return "none", f"{name} has layers of type {', '.join(sorted(kinds - {'full_attention', 'sliding_attention'}))}"
    if not _agrees_with_rows(model, "plain"):
        return "none", f"{name} does not keep packed sequences apart"
    if "sliding_attention" in kinds or (getattr(config, "layer_types", None) is None and getattr(config, "sliding_window", None)):
        return "plain", f"{name} has sliding-window layers"
    if not _agrees_with_rows(model, "tree"):
        return "plain", f"{name} does not take a 4-D attention mask"
    return "tree", ""


@torch.no_grad()
def _agrees_with_rows(model: nn.Module, layout: Layout) -> bool:
    """Whether four short sequences in one row give the hidden states that they give alone."""
    device = next(model.parameters()).device
    vocab_size = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    texts = ([1, 2, 3, 4, 5], [1, 2, 3, 6, 7, 8], [1, 2, 9], [4, 5, 6, 7])
    sequences = [np.array(text, np.int32) % vocab_size for text in texts]
    tree = build_tree(sequences, share=layout == "tree")
    input_ids, position_ids, tout = (
        torch.from_numpy(array).to(device) for array in (tree.input_ids, tree.position_ids, tree.tout)
    )
    mask: Tensor | Plan | None = None
    if has_tree_attention(model):
        # Blocks of two rows, so that the tree is cut in every way there is.
        mask = make_plan(tree.tout, local_rows=2)
    elif layout == "tree":
        mask = ancestor_mask(tout)
    was_training = model.training
    model.eval()
    try:
        together_LD = _run_trunk(model, input_ids[None], position_ids[None], mask)
        for sequence, path in zip(sequences, tree.paths, strict=True):
            ids = torch.from_numpy(sequence.astype(np.int64)).to(device)[None]
            alone_LD = _run_trunk(model, ids, torch.arange(ids.shape[1], device=device)[None], None)
            if (together_LD[torch.from_numpy(path)] - alone_LD).abs().max() > _PROBE_TOLERANCE * alone_LD.abs().max():
                return False
        return True
    except (TypeError, ValueError, RuntimeError) as error:
        _LOG.debug("probe of packing %s failed: %s", layout, error)
        return False
    finally:
        model.train(was_training)


def _run_trunk(model: nn.Module, input_ids_BL: Tensor, position_ids_BL: Tensor, mask: Tensor | Plan | None) -> Tensor:
    trunk: Any = trunk_of(model)
    arguments: dict[str, Any] = {"attention_mask": mask}
    if isinstance(mask, Plan):
        # A 4-D mask is passed through untouched; tree attention looks at the plan only.
        arguments = {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool), "tree_plan": mask}
    output = trunk(input_ids=input_ids_BL, position_ids=position_ids_BL, use_cache=False, **arguments)
    hidden_BLD: Tensor = output.last_hidden_state
    return hidden_BLD.flatten(0, 1)
