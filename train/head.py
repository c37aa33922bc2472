"""Hidden states, LM head and what each supervised position should learn in; one loss out, gradients already formed.

Shapes: R rows of the trunk's output, D hidden size, V vocabulary, M supervised slots, K stored teacher ids, C slots of
one chunk. Logits exist for C slots at a time, in float32, and never for the prompt.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.losses import Divergence, masses


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

    def to(self, device: torch.device) -> "Targets":
        """The same on `device`."""
        fields = (self.row_M, self.gold_M, self.count_M, self.ids_MK, self.logprobs_MK, self.tail_M)
        return Targets(*(field.to(device, non_blocking=True) for field in fields))


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


def head_loss(hidden_RD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets: Targets, objective: Objective) -> HeadLoss:
    """The loss at the supervised slots; gradients of hidden states, LM head and bias come with the forward pass."""
    loss, mle_sum, kd_sum = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden_RD, weight_VD, bias_V, targets, objective, torch.is_grad_enabled()
    )
    return HeadLoss(loss, mle_sum, kd_sum)


def chunk_slots(vocab_size: int) -> int:
    """Slots a chunk: logits of about 16 MiB, yet enough rows to keep the matrix product busy."""
    return max(128, min(2048, (4 << 20) // vocab_size))


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets: Targets,
        objective: Objective,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wants = tuple(grad_enabled and needed for needed in ctx.needs_input_grad[:3])
        # Autocast would cast the float32 gradients back and forth; the product's dtype is chosen here instead.
        device = hidden_RD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
        with torch.autocast(device, enabled=False):
            sums, grads = _run(hidden_RD, weight_VD, bias_V, targets, objective, wants, dtype)
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
        return (*grads, None, None, None)


def _run(
    hidden_RD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets: Targets,
    objective: Objective,
    wants: tuple[bool, ...],
    dtype: torch.dtype,
) -> tuple[tuple[Tensor, Tensor], list[Tensor | None]]:
    weight = weight_VD.to(dtype)
    grad_hidden = torch.zeros_like(hidden_RD, dtype=torch.float32) if wants[0] else None
    grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if wants[1] else None
    grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if wants[2] and bias_V is not None else None
    mle_sum = torch.zeros((), device=hidden_RD.device)
    kd_sum = torch.zeros((), device=hidden_RD.device)
    size = chunk_slots(weight_VD.shape[0])
    for start in range(0, targets.row_M.shape[0], size):
        chunk = slice(start, start + size)
        row_C = targets.row_M[chunk]
        hidden_CD = hidden_RD[row_C].to(dtype)
        logits_CV = (hidden_CD @ weight.T).float()
        if bias_V is not None:
            logits_CV += bias_V
        mle, kd, grad_CV = _chunk(logits_CV, targets, chunk, objective, any(wants))
        mle_sum += mle
        kd_sum += kd
        if grad_CV is None:
            continue
        narrow_CV = grad_CV.to(dtype)
        if grad_hidden is not None:
            grad_hidden.index_add_(0, row_C, (narrow_CV @ weight).float())
        if grad_weight is not None:
            _add_product(grad_weight, narrow_CV, hidden_CD)
        if grad_bias is not None:
            grad_bias += grad_CV.sum(0)
    grads = [
        None if grad is None else grad.to(like.dtype)
        for grad, like in ((grad_hidden, hidden_RD), (grad_weight, weight_VD), (grad_bias, weight_VD))
    ]
    return (mle_sum, kd_sum), grads


def _add_product(total_VD: Tensor, grad_CV: Tensor, hidden_CD: Tensor) -> None:
    """Add grad.T @ hidden, in float32 without a temporary the size of the LM head."""
    if grad_CV.dtype == total_VD.dtype:
        total_VD.addmm_(grad_CV.T, hidden_CD)
    else:
        total_VD += grad_CV.T @ hidden_CD


def _chunk(
    logits_CV: Tensor, targets: Targets, chunk: slice, objective: Objective, wants_grad: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sums of one chunk and, in the place of its logits, the gradient of the scaled loss in them."""
    gold_C = targets.gold_M[chunk]
    has_gold_C = gold_C >= 0
    index_C1 = gold_C.clamp_min(0)[:, None]
    log_q_CV = logits_CV.sub_(logits_CV.logsumexp(-1, keepdim=True))
    zero = log_q_CV.new_zeros(())
    mle = -torch.where(has_gold_C, log_q_CV.gather(1, index_C1)[:, 0], zero).sum()
    mle_C = has_gold_C * objective.mle_scale
    if objective.divergence is None or targets.ids_MK.shape[1] == 0:
        if not wants_grad:
            return mle, zero, None
        grad_CV = log_q_CV.exp_().mul_(mle_C[:, None])
        return mle, zero, grad_CV.scatter_add_(1, index_C1, -mle_C[:, None])
    ids_CK, count_C = targets.ids_MK[chunk], targets.count_M[chunk]
    stored_CK = torch.arange(ids_CK.shape[1], device=ids_CK.device) < count_C[:, None]
    log_q_CK = log_q_CV.gather(1, ids_CK)
    q_CV = log_q_CV.exp_()
    q_CV.scatter_(1, ids_CK, 0.0)
    x = masses((targets.logprobs_MK[chunk], targets.tail_M[chunk], stored_CK), log_q_CK, q_CV.sum(-1))
    result = objective.divergence(x)
    has_kd_C = count_C > 0
    # Rounding can leave a value a few 1e-8 below zero where the masses agree.
    kd = torch.where(has_kd_C, result.value_N.clamp_min(0.0), zero).sum()
    if not wants_grad:
        return mle, kd, None
    kd_C = has_kd_C * objective.kd_scale
    m_C = result.a_NK.sum(-1) + result.a_tail_N
    outside_C = torch.where(has_kd_C, mle_C + kd_C * (result.w_tail_N - m_C), mle_C)
    q_all_CK = log_q_CK.exp()
    inside_CK = q_all_CK * mle_C[:, None] + kd_C[:, None] * (result.a_NK - x.q_NK * m_C[:, None])
    # Padding repeats the first id, so it must write the first value; a slot without a teacher writes what MLE asks.
    inside_CK = torch.where(stored_CK | ~has_kd_C[:, None], inside_CK, inside_CK[:, :1])
    grad_CV = q_CV.mul_(outside_C[:, None]).scatter_(1, ids_CK, inside_CK)
    return mle, kd, grad_CV.scatter_add_(1, index_C1, -mle_C[:, None])
