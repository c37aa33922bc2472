"""A student's linear layers on a CPU under autocast: each input is cast once, and weights' gradients are added where they gather.

Autograd would make each gradient in half precision, widen it and add it; and q, k and v, gate and up would each cast the same
input and keep it. Shapes: R rows, I inputs, O outputs of a layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from train.loss.product import add_product
from train.student.tables import is_added_in_place


def multiply_in_place(model: nn.Module) -> None:
    """Let the plain linear layers of `model` do so from now on, wherever gradients are asked for under autocast."""
    for module in model.modules():
        if type(module) is nn.Linear and is_added_in_place(module.weight):
            module.__class__ = _Linear


class _Casts:
    """What was cast since a step began: its weights, and the input of the layer before."""

    def __init__(self) -> None:
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}
        self._input: tuple[Tensor, int, Tensor] | None = None

    def weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The same for all packs of a step."""
        if id(weight) not in self._weights:
            self._weights[id(weight)] = (weight, weight.detach().to(dtype))
        return self._weights[id(weight)][1]

    def input(self, given: Tensor, dtype: torch.dtype) -> Tensor:
        """The same for layers that are given the same, one after the other."""
        last = self._input
        if last is None or last[0] is not given or last[1] != given._version:
            self._input = last = (given, given._version, given.detach().to(dtype))
        return last[2]


_casts: _Casts | None = None


@contextmanager
def casts_of_a_step() -> Iterator[None]:
    """Keep what is cast until the end; weights must not change meanwhile."""
    global _casts
    _casts = _Casts()
    try:
        yield
    finally:
        _casts = None


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and torch.is_autocast_enabled("cpu") and is_added_in_place(self.weight)):
            return super().forward(input)
        casts, dtype = _casts or _Casts(), torch.get_autocast_dtype("cpu")
        cast = (casts.input(input, dtype), casts.weight(self.weight, dtype))
        output: Tensor = _Product.apply(input, self.weight, self.bias, *cast)  # type: ignore[no-untyped-call]
        return output


class _Product(torch.autograd.Function):
    """Of an input and a weight, both cast; the weight's gradient is added to its `.grad`, and autograd told of none."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, cast: Tensor, cast_OI: Tensor) -> Tensor:
        ctx.save_for_backward(cast, cast_OI)
        ctx.weight, ctx.dtype = weight, input.dtype
        return nn.functional.linear(cast, cast_OI, None if bias is None else bias.to(cast.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cast, cast_OI = ctx.saved_tensors
        grad_RO = grad.flatten(0, -2)
        ctx.weight.grad = add_product(ctx.weight.grad, grad_RO, cast.flatten(0, -2))
        to_input = (grad @ cast_OI).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        to_bias = grad_RO.sum(0).float() if ctx.needs_input_grad[2] else None
        return to_input, None, to_bias, None, None
