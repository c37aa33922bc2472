"""Gradients of outputs and the inputs of a linear layer in; the gradient of its weight, added in float32, out. For a CPU.

Shapes: R rows, I inputs, O outputs.
"""

import torch
from torch import Tensor

_NUMBERS = 4 << 20
"""Of a gradient that are made at a time: 8 to 16 MiB, which a processor's caches about hold."""
_MANY_ROWS = 2048
"""From here on it is worth transposing the result too."""


def add_product(total_OI: Tensor | None, grad_RO: Tensor, input_RI: Tensor) -> Tensor:
    """total + grad.T @ input, in place; a new float32 tensor where there is no total yet. The two factors have one precision.

    In half precision the narrower factor is laid out first: with a transposed left factor the product takes up to twice as long
    on a processor that multiplies tiles. It is added a part at a time: a sum of two precisions widens its second operand first,
    and neither the product nor its wider copy is worth memory that the system has to find, which takes as long as the product.
    """
    rows, outputs, inputs = *grad_RO.shape, input_RI.shape[1]
    if total_OI is not None and grad_RO.dtype == total_OI.dtype:
        return total_OI.addmm_(grad_RO.T, input_RI)
    is_new = total_OI is None
    total = grad_RO.new_empty(outputs, inputs, dtype=torch.float32) if total_OI is None else total_OI
    is_turned = inputs < outputs and rows >= _MANY_ROWS
    left_OR = grad_RO.T.contiguous() if outputs <= inputs else grad_RO.T
    left_IR = input_RI.T.contiguous() if is_turned else None
    size = max(1024, _NUMBERS // inputs)
    for start in range(0, outputs, size):
        part = slice(start, start + size)
        product = left_OR[part] @ input_RI if left_IR is None else (left_IR @ grad_RO[:, part]).T
        if is_new:
            total[part].copy_(product)
        else:
            total[part] += product
    return total
