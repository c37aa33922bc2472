"""A causal language model in; how it can share prompts out, read from its configuration and then tried on a few tokens.

Trees need attention that takes an arbitrary mask, and a model that ignores the mask says nothing.
"""

import logging
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from kidcore.models.trees import flex
from kidcore.models.trees.attention import Mask, has_tree_attention, install, make_mask, uninstall
from kidcore.models.trees.blocks import plan_blocks
from kidcore.models.trees.tree import Int64, build_tree
from kidcore.models.trees.trunk import causal_of, run_trunk
from kidcore.models.trees.twin import small_twin

PackLayout = Literal["tree", "plain", "none"]
"""tree: shared prefixes once; plain: sequences end to end; none: one padded row a sequence."""

_LOG = logging.getLogger(__name__)
# Largest distance of a sequence's hidden states from those it has alone, relative to their size.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF_TOLERANCE = 5e-2
_TEXTS = ([1, 2, 3, 4, 5], [1, 2, 3, 6, 7, 8], [1, 2, 9], [4, 5, 6, 7])


def best_layout(model: nn.Module) -> tuple[PackLayout, str]:
    """The layout that shares most among those that the model serves, and what keeps it from sharing more."""
    config: Any = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    name = config.model_type
    if not kinds <= {"full_attention", "sliding_attention"}:
        return "none", f"{name} has layers of type {', '.join(sorted(kinds - {'full_attention', 'sliding_attention'}))}"
    if not _agrees_with_rows(model, "plain", None):
        return "none", f"{name} does not keep packed sequences apart"
    if "sliding_attention" in kinds or (getattr(config, "layer_types", None) is None and getattr(config, "sliding_window", None)):
        return "plain", f"{name} has sliding-window layers"
    if not _agrees_with_rows(model, "tree", None):
        return "plain", f"{name} does not take a 4-D attention mask"
    return "tree", ""


def use_tree_attention(model: nn.Module, dtype: torch.dtype | None = None) -> bool:
    """Switch a model that can share prompts to tree attention; where that cannot be, say so and leave it as it was.

    `dtype` is that of autocast. A model in training mode is tried with its backward pass.
    """
    device = next(model.parameters()).device
    if device.type not in ("cpu", "cuda") or not install(model):
        return False
    reason = "" if device.type == "cpu" else _try_flex(model, device, dtype)
    if not reason and not _agrees_with_rows(model, "tree", dtype):
        reason = "this model does not run tree attention"
    if reason:
        _LOG.warning("attention: dense masks, because %s", reason)
        uninstall(model)
    return not reason


def _try_flex(model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> str:
    """Why FlexAttention cannot be used with heads like the model's; empty when it can."""
    config: Any = causal_of(model).config
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    chosen = dtype or next(model.parameters()).dtype
    try:
        error = flex.relative_error(heads, groups, size, chosen, device, backward=model.training)
    # The compiler raises whatever it was built from: missing tools, kernels too large for the card, its own mistakes.
    except Exception as problem:
        _LOG.debug("FlexAttention failed", exc_info=True)
        return f"FlexAttention does not compile here ({type(problem).__name__})"
    _LOG.debug("FlexAttention differs from dense attention by %.2g", error)
    return "" if error <= tolerance(chosen) else f"FlexAttention is wrong here (by {error:.2g})"


def tolerance(dtype: torch.dtype) -> float:
    """Largest distance of hidden states that two ways give, relative to their size."""
    return _TOLERANCE.get(dtype, _HALF_TOLERANCE)


def _agrees_with_rows(model: nn.Module, layout: PackLayout, dtype: torch.dtype | None) -> bool:
    """Whether four short sequences in one row give the hidden states that they give alone.

    In half precision rounding alone can part them by a sixth (seen of SmolLM2's 30 layers in bfloat16). A model of the same
    kind in float32 says then whether it is more than that.
    """
    device = next(model.parameters()).device
    if dtype is None and torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    if _agrees(model, layout, dtype):
        return True
    if (dtype or next(model.parameters()).dtype) in _TOLERANCE:
        return False
    try:
        twin = small_twin(model)
        if has_tree_attention(model):
            install(twin)
        with torch.autocast(device.type, enabled=False):
            return _agrees(twin, layout, None)
    except Exception as error:  # whatever a constructor objects to in a configuration that was cut down
        _LOG.debug("no small model of the kind can be made: %s", error)
        return False


@torch.no_grad()
def _agrees(model: nn.Module, layout: PackLayout, dtype: torch.dtype | None) -> bool:
    device = next(model.parameters()).device
    vocab_size = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    sequences = [np.array(text, np.int32) % vocab_size for text in _TEXTS]
    tree = build_tree(sequences, share=layout == "tree")
    mask: Mask | None = make_mask(model, tree.tout, device) if layout == "tree" else None
    if mask is not None and has_tree_attention(model) and device.type == "cpu":
        # Blocks of two rows, so that the tree is cut in every way there is.
        mask = plan_blocks(tree.tout, local_rows=2)
    most = tolerance(dtype or next(model.parameters()).dtype)
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            together_LD = _run(model, tree.input_ids, tree.position_ids, mask)
            for sequence, path in zip(sequences, tree.paths, strict=True):
                alone_LD = _run(model, sequence.astype(np.int64), np.arange(len(sequence)), None)
                distance = (together_LD[torch.from_numpy(path).to(device)] - alone_LD).float().norm()
                if not distance <= most * alone_LD.float().norm():
                    return False
        return True
    except (TypeError, ValueError, RuntimeError) as error:
        _LOG.debug("probe of packing %s failed: %s", layout, error)
        return False
    finally:
        model.train(was_training)


def _run(model: nn.Module, input_ids: Int64, position_ids: Int64, mask: Mask | None) -> Tensor:
    device = next(model.parameters()).device
    ids_1L, positions_1L = (torch.from_numpy(x).to(device)[None] for x in (input_ids, position_ids))
    return run_trunk(model, ids_1L, positions_1L, mask)
