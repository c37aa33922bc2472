"""A student on a GPU in; the same with its layers compiled, where that runs here and computes the same, out.

A layer is some 160 kernels, most of them small; compiled it is about 20, and Python has less to launch. Only packs that
train go through the compiled layers: generation and evaluation would each be compiled anew.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._inductor import config as inductor

from kidcore.models.trees.attention import has_tree_attention
from kidcore.models.trees.flex import BLOCK, FlexPlan, allow_many_shapes, make_flex_plan
from kidcore.models.trees.tree import build_tree
from kidcore.models.trees.trunk import causal_of, run_trunk

_LOG = logging.getLogger(__name__)
# Fused operations skip roundings to half precision in between.
_TOLERANCE = {None: 1e-3, torch.bfloat16: 5e-2}


def compile_layers(model: nn.Module, dtype: torch.dtype | None, backend: str = "inductor") -> bool:
    """Compile the layers of `model`, which trains under autocast to `dtype`; leave it as it is, and say why, where that fails."""
    reason = "" if has_tree_attention(model) else "it does not run tree attention"
    if not reason:
        reason = _compile_and_try(model, dtype, backend)
    if reason:
        _LOG.warning("train.compile: the layers run uncompiled, because %s", reason)
    return not reason


def _compile_and_try(model: nn.Module, dtype: torch.dtype | None, backend: str) -> str:
    layers = layers_of(model)
    if not layers:
        return "this model does not say which its layers are"
    expected = _look(model, dtype)
    allow_many_shapes()
    # Kernels chosen by the clock would sum in another order in a resumed run. Torch before 2.10 has no such switch.
    if hasattr(inductor, "deterministic"):
        inductor.deterministic = True
    switch = _Switch(layers, backend)
    try:
        found = _look(model, dtype)
    # The compiler raises whatever it was built from; the backward pass is compiled when it first runs.
    except Exception as problem:
        _LOG.debug("compiling the layers failed", exc_info=True)
        switch.undo()
        return f"they do not compile here ({type(problem).__name__})"
    error = max(float((x - y).norm() / y.norm().clamp_min(1e-20)) for x, y in zip(found, expected, strict=True))
    _LOG.debug("compiled layers differ by %.2g", error)
    if error <= _TOLERANCE.get(dtype, _TOLERANCE[torch.bfloat16]):
        switch.is_tried = True
        return ""
    switch.undo()
    return f"they compute something else (by {error:.2g})"


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The decoder layers, by what the model names as not to be split."""
    names = set(getattr(causal_of(model), "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


class _Switch:
    """Puts a forward in the place of each layer's own: names, hooks and checkpointing around it stay as they are."""

    def __init__(self, layers: list[nn.Module], backend: str) -> None:
        self._layers, self._is_on = layers, True
        self.is_tried = False
        for layer in layers:
            compiled = torch.compile(layer.forward, dynamic=True, fullgraph=True, backend=backend)
            layer.forward = self._forward(layer.forward, compiled)

    def undo(self) -> None:
        """Back to the layers' own."""
        for layer in self._layers:
            del layer.forward

    def _forward(self, plain: Callable[..., Any], compiled: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def forward(*arguments: Any, **named: Any) -> Any:
            if not (self._is_on and torch.is_grad_enabled() and isinstance(named.get("tree_plan"), FlexPlan)):
                return plain(*arguments, **named)
            try:
                return compiled(*arguments, **named)
            except torch._dynamo.exc.TorchDynamoException as error:
                if not self.is_tried:
                    raise
                _LOG.warning("train.compile: the layers run uncompiled from here on (%s)", type(error).__name__)
                _LOG.debug("compiling a layer failed", exc_info=True)
                self._is_on = False
                return plain(*arguments, **named)

        return forward


def _look(model: nn.Module, dtype: torch.dtype | None) -> list[Tensor]:
    """Hidden states of a small pack, and gradients of the first layer that has any."""
    device = next(model.parameters()).device
    vocab_size = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    rng = np.random.default_rng(0)
    shared = rng.integers(vocab_size, size=2 * BLOCK)
    parts = [rng.integers(vocab_size, size=BLOCK // 2 + 9 * number) for number in range(4)]
    tree = build_tree([np.concatenate([shared, part]).astype(np.int32) for part in parts])
    ids_1L, positions_1L = (torch.from_numpy(x).to(device)[None] for x in (tree.input_ids, tree.position_ids))
    trained = next(own for layer in layers_of(model) if (own := [p for p in layer.parameters() if p.requires_grad]))
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        hidden_LD = run_trunk(model, ids_1L, positions_1L, make_flex_plan(tree.tout, device))
    weights_LD = torch.sin(torch.arange(hidden_LD.numel(), device=device)).view_as(hidden_LD)
    grads = torch.autograd.grad((hidden_LD.float() * weights_LD).sum(), trained, allow_unused=True)
    # Adapters begin at zero, where half of their gradients are zero.
    return [hidden_LD.detach().float(), *(x.float() for x in grads if x is not None and bool(x.any()))]
