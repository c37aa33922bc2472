"""Hidden states, LM head and what each supervised position should learn in; one loss out, gradients already formed.

Shapes: R rows of the trunk's output, D hidden size, V vocabulary, M supervised slots, K stored teacher ids, C slots of
one chunk. Logits exist for C slots at a time, and never for the prompt.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from train.loss.chunk import Slots, chunk_loss
from train.loss.losses import Divergence
from train.loss.product import add_product


@dataclass(frozen=True)
class Targets:
    """What M slots learn. A slot is one row of the trunk with at most one gold token and one teacher distribution."""

    row_M: Tensor
    """Row of the trunk's output whose hidden state predicts the slot's token, int64."""
    gold_M: Tensor
    """Token of the maximum-likelihood term, int64; -1 = none."""
    count_M: Tensor
    """Stored teacher ids, int64; 0 = no teacher distribution."""
    ids_MK: Tensor
    """Stored teacher ids, int64; padding repeats the slot's first id."""
    logprobs_MK: Tensor
    tail_M: Tensor
    is_gold_M: Tensor | None = None
    """Whether the teacher's distribution is one on gold SQL, bool; None where the objective does not ask."""

    def padded(self, num_slots: int) -> "Targets":
        """The same with slots behind that learn nothing, and never with a single column of ids.

        A compiled function is compiled anew where a size is 1.
        """
        missing = num_slots - self.row_M.shape[0]
        ids_MK, logprobs_MK = self.ids_MK, self.logprobs_MK
        if ids_MK.shape[1] == 1:
            ids_MK, logprobs_MK = ids_MK.repeat(1, 2), logprobs_MK.repeat(1, 2)
        row_M, count_M, tail_M = (pad(x, (0, missing)) for x in (self.row_M, self.count_M, self.tail_M))
        ids_MK, logprobs_MK = (pad(x, (0, 0, 0, missing)) for x in (ids_MK, logprobs_MK))
        is_gold_M = None if self.is_gold_M is None else pad(self.is_gold_M, (0, missing))
        return Targets(row_M, pad(self.gold_M, (0, missing), value=-1), count_M, ids_MK, logprobs_MK, tail_M, is_gold_M)

    def chunk(self, start: int, stop: int) -> Slots:
        """What some slots learn."""
        fields = (self.gold_M, self.count_M, self.ids_MK, self.logprobs_MK, self.tail_M)
        slots = Slots(*(field[start:stop] for field in fields))
        if self.is_gold_M is not None:
            slots = slots._replace(is_gold_C=self.is_gold_M[start:stop])
        return slots

    def to(self, device: torch.device) -> "Targets":
        """The same on `device`."""
        fields = (self.row_M, self.gold_M, self.count_M, self.ids_MK, self.logprobs_MK, self.tail_M)
        moved = Targets(*(field.to(device, non_blocking=True) for field in fields))
        is_gold_M = None if self.is_gold_M is None else self.is_gold_M.to(device, non_blocking=True)
        return replace(moved, is_gold_M=is_gold_M)


@dataclass(frozen=True)
class Objective:
    """Sum over slots of mle_scale * (-log q(gold)) + kd_scale * divergence(p, q).

    The scales hold the loss weights divided by the number of supervised tokens of the whole step.
    """

    mle_scale: float
    kd_scale: float
    divergence: Divergence | None


@dataclass(frozen=True)
class HeadLoss:
    """`loss` is what to differentiate; the sums are unscaled and detached."""

    loss: Tensor
    mle_sum: Tensor
    kd_sum: Tensor


def head_loss(
    hidden_RD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets: Targets,
    objective: Objective,
    grad_VD: Tensor | None = None,
) -> HeadLoss:
    """The loss at the supervised slots; gradients of hidden states, LM head and bias come with the forward pass.

    Where `grad_VD` is given, float32, the LM head's gradient of `loss` as it is, unscaled, is added to it there and then;
    autograd is told of none.
    """
    loss, mle_sum, kd_sum = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden_RD,
        weight_VD if grad_VD is None else weight_VD.detach(),
        bias_V,
        targets,
        objective,
        grad_VD,
        torch.is_grad_enabled(),
    )
    return HeadLoss(loss, mle_sum, kd_sum)


def chunk_slots(num_slots: int, vocab_size: int, dtype: torch.dtype, device: torch.device) -> int:
    """Slots a chunk. On a CPU, logits of about 16 MiB, yet enough rows to keep the matrix product busy.

    In half precision there, 512 rows at least: each chunk's product the size of the LM head is made in that precision and
    added to the gradient in float32, which takes longer than the product itself.
    On a GPU up to 512 MiB, because each chunk reads and writes the whole LM head again; equal chunks, a multiple of 64.
    """
    if device.type != "cuda":
        return max(128 if dtype.itemsize > 2 else 512, min(2048, (4 << 20) // vocab_size))
    most = max(256, (512 << 20) // (vocab_size * dtype.itemsize) // 64 * 64)
    num_chunks = max(1, -(-num_slots // most))
    return -(-num_slots // (64 * num_chunks)) * 64 or 64


def slice_slots(num_slots: int, vocab_size: int, device: torch.device) -> int:
    """Slots of a chunk of `num_slots` whose logits the losses widen at a time: on a CPU, float32 of about 16 MiB.

    The losses go through them seven times. Twice as fast there as slices of 128 slots and a vocabulary of 152,000, 78 MiB.
    """
    return num_slots if device.type == "cuda" else max(1, min(num_slots, (4 << 20) // vocab_size))


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets: Targets,
        objective: Objective,
        grad_VD: Tensor | None,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wants = tuple(grad_enabled and needed for needed in ctx.needs_input_grad[:3])
        # Autocast would cast the float32 gradients back and forth; the product's dtype is chosen here instead.
        device = hidden_RD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
        with torch.autocast(device, enabled=False):
            sums, grads = _run(hidden_RD, weight_VD, bias_V, targets, objective, wants, dtype, grad_VD)
        ctx.save_for_backward(*(grad for grad in grads if grad is not None))
        ctx.is_spent = False
        ctx.present = [grad is not None for grad in grads]
        loss = objective.mle_scale * sums[0] + objective.kd_scale * sums[1]
        ctx.mark_non_differentiable(sums[0], sums[1])
        return loss, sums[0], sums[1]

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        # The gradients are scaled where they lie: that of a large vocabulary is worth not copying.
        assert not ctx.is_spent, "the gradients were handed out already"
        ctx.is_spent = True
        saved = iter(ctx.saved_tensors)
        grads = [next(saved).mul_(grad_loss) if present else None for present in ctx.present]
        return (*grads, None, None, None, None)


def _run(
    hidden_RD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets: Targets,
    objective: Objective,
    wants: tuple[bool, ...],
    dtype: torch.dtype,
    grad_VD: Tensor | None,
) -> tuple[tuple[Tensor, Tensor], list[Tensor | None]]:
    weight, bias = weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype)
    grad_hidden = torch.zeros_like(hidden_RD, dtype=torch.float32) if wants[0] else None
    grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if wants[1] else grad_VD
    grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if wants[2] and bias_V is not None else None
    device, num_slots = hidden_RD.device, targets.row_M.shape[0]
    mle_sum, kd_sum = torch.zeros((), device=device), torch.zeros((), device=device)
    # Made on the device: a copy would wait for the work before it.
    scales = (torch.full((), objective.mle_scale, device=device), torch.full((), objective.kd_scale, device=device))
    size = chunk_slots(num_slots, weight_VD.shape[0], dtype, device)
    slice_size = slice_slots(size, weight_VD.shape[0], device)
    space_CV = None
    if device.type == "cuda":
        targets = targets.padded(-(-num_slots // size) * size)
    else:
        # The largest blocks of a run, in a few sizes: see kidcore.models.trees.blocks.padded.
        space_CV = weight.new_empty(min(size, -(-num_slots // 64) * 64), weight.shape[0])
    for start in range(0, targets.row_M.shape[0], size):
        row_C = targets.row_M[start : start + size]
        hidden_CD = hidden_RD[row_C].to(dtype)
        logits_CV = _logits(hidden_CD, weight, bias, None if space_CV is None else space_CV[: len(row_C)])
        for begin in range(0, len(row_C), slice_size):
            end = min(begin + slice_size, len(row_C))
            slots = targets.chunk(start + begin, start + end)
            mle, kd = chunk_loss(logits_CV[begin:end], slots, scales, objective.divergence, any(wants) or grad_VD is not None)
            mle_sum += mle
            kd_sum += kd
        # The gradient stands where the logits stood.
        if grad_hidden is not None:
            _add_rows(grad_hidden, row_C, (logits_CV @ weight).float())
        if grad_weight is not None:
            _add_product(grad_weight, logits_CV, hidden_CD)
        if grad_bias is not None:
            grad_bias += logits_CV.sum(0, dtype=torch.float32)
    grads = [
        None if grad is None else grad.to(like.dtype)
        for grad, like in ((grad_hidden, hidden_RD), (grad_weight if wants[1] else None, weight_VD), (grad_bias, weight_VD))
    ]
    return (mle_sum, kd_sum), grads


def _logits(hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, space_CV: Tensor | None) -> Tensor:
    if bias_V is None:
        return torch.mm(hidden_CD, weight_VD.T, out=space_CV)
    return torch.addmm(bias_V, hidden_CD, weight_VD.T, out=space_CV)


def _add_rows(total_RD: Tensor, row_C: Tensor, grad_CD: Tensor) -> None:
    """Add each slot's gradient to its row, those of one row in the same order each time, so that a run resumes exactly."""
    if total_RD.device.type == "cuda":
        # `index_add_` adds atomically there, in any order; this one sorts first. On a CPU it is the other way round.
        total_RD.index_put_((row_C,), grad_CD, accumulate=True)
    else:
        total_RD.index_add_(0, row_C, grad_CD)


def _add_product(total_VD: Tensor, grad_CV: Tensor, hidden_CD: Tensor) -> None:
    """Add grad.T @ hidden, in float32 without a temporary the size of the LM head."""
    if grad_CV.device.type == "cuda" and grad_CV.dtype != total_VD.dtype:
        torch.addmm(total_VD, grad_CV.T, hidden_CD, out_dtype=total_VD.dtype, out=total_VD)
    else:
        add_product(total_VD, grad_CV, hidden_CD)
