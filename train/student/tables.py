"""A student's embedding and LM head on a CPU: their gradients are added where gradients gather, not made anew for each pack.

With a vocabulary of 152,000 either is a matrix of half a gigabyte, and of an embedding a pack touches a few hundred rows.
Autograd would make one for the embedding, one for the head and, where the two are tied, their sum; the system takes longer to
find that memory than the processor to fill it.
"""

from typing import Any

import torch
from torch import Tensor, nn


def add_in_place(model: nn.Module) -> None:
    """Let the embedding add its gradient to `.grad` itself, the rows used alone; not where it does more than look rows up."""
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    is_plain = type(embedding) is nn.Embedding and embedding.max_norm is None
    if is_plain and embedding.weight.requires_grad and not (embedding.scale_grad_by_freq or embedding.sparse):
        embedding.__class__ = _Embedding


def is_added_in_place(weight: Tensor) -> bool:
    """Whether a gradient of `weight` can be: it is trained, on a CPU, in the precision in which gradients gather."""
    return weight.requires_grad and weight.device.type == "cpu" and weight.dtype == torch.float32


def gathered(weight: Tensor) -> Tensor:
    """Where the gradients of `weight` gather: its `.grad`, zeros at first."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


class _Embedding(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        if not is_added_in_place(self.weight):
            return super().forward(input)
        rows: Tensor = _Rows.apply(input, self.weight, self.padding_idx)  # type: ignore[no-untyped-call]
        return rows


class _Rows(torch.autograd.Function):
    """Rows of a table; the table's gradient is added to its `.grad` in the backward pass, and autograd told of none."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding_id: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding_id = weight, padding_id
        return nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        grad_RD, ids_R = grad.flatten(0, -2), ids.flatten()
        if ctx.padding_id is not None:
            is_text_R = ids_R != ctx.padding_id
            grad_RD, ids_R = grad_RD[is_text_R], ids_R[is_text_R]
        # A token's gradients are summed before they are added, in the order of their rows, as PyTorch's own kernel does.
        used, places_R = ids_R.unique(return_inverse=True)
        sums = grad_RD.new_zeros(len(used), grad_RD.shape[1]).index_add_(0, places_R, grad_RD)
        gathered(ctx.weight).index_add_(0, used, sums)
        return None, None, None
