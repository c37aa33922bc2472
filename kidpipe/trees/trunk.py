"""A causal language model and a row of tokens in; the trunk's hidden states out. The LM head is not run here.

Trees need attention that takes an arbitrary mask. Which layout a model can serve is read from its configuration and
then tried on a few tokens, because a model that ignores the mask says nothing.
"""

import logging
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from kidpipe.trees.blocks import Plan, make_plan
from kidpipe.trees.tree import build_tree

Layout = Literal["tree", "plain", "none"]
"""tree: shared prefixes once; plain: sequences end to end; none: one padded row a sequence."""

_LOG = logging.getLogger(__name__)
# Largest difference of a hidden state from separate sequences, relative to the largest hidden state.
_PROBE_TOLERANCE = 1e-3


def ancestor_mask(tout_L: Tensor) -> Tensor:
    """Bool [1, 1, L, L]: row q sees row k where k <= q < tout[k]."""
    row_L = torch.arange(tout_L.shape[0], device=tout_L.device)
    return ((row_L[None, :] <= row_L[:, None]) & (row_L[:, None] < tout_L[None, :]))[None, None]


def trunk_of(model: nn.Module) -> nn.Module:
    """The model without its LM head."""
    causal: Any = causal_of(model)
    trunk: nn.Module = causal.get_decoder()
    return trunk


def causal_of(model: nn.Module) -> nn.Module:
    """The causal language model inside peft's wrapper, if there is one."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else model


def use_tree_attention(model: nn.Module) -> bool:
    """Switch a model that can share prompts, on a CPU, to tree attention; says so where it cannot be."""
    if next(model.parameters()).device.type != "cpu" or not install(model):
        return False
    if _agrees_with_rows(model, "tree"):
        return True
    _LOG.warning("attention: dense masks, because this model does not run tree attention")
    uninstall(model)
    return False


def best_layout(model: nn.Module) -> tuple[Layout, str]:
    """The layout that shares most among those that the model serves, and what keeps it from sharing more."""
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
        together_LD = run_trunk(model, input_ids[None], position_ids[None], mask)
        for sequence, path in zip(sequences, tree.paths, strict=True):
            ids = torch.from_numpy(sequence.astype(np.int64)).to(device)[None]
            alone_LD = run_trunk(model, ids, torch.arange(ids.shape[1], device=device)[None], None)
            if (together_LD[torch.from_numpy(path)] - alone_LD).abs().max() > _PROBE_TOLERANCE * alone_LD.abs().max():
                return False
        return True
    except (TypeError, ValueError, RuntimeError) as error:
        _LOG.debug("probe of packing %s failed: %s", layout, error)
        return False
    finally:
        model.train(was_training)


def run_trunk(model: nn.Module, input_ids_BL: Tensor, position_ids_BL: Tensor, mask: Tensor | Plan | None) -> Tensor:
    """The last hidden states, [B * L, D]; `mask` is a padding mask [B, L], a dense mask [1, 1, L, L] or a plan."""
    trunk: Any = trunk_of(model)
    arguments: dict[str, Any] = {"attention_mask": mask}
    if isinstance(mask, Plan):
        # A 4-D mask is passed through untouched; tree attention looks at the plan only.
        arguments = {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool), "tree_plan": mask}
    output = trunk(input_ids=input_ids_BL, position_ids=position_ids_BL, use_cache=False, **arguments)
    hidden_BLD: Tensor = output.last_hidden_state
    return hidden_BLD.flatten(0, 1)
