"""The logits of a chunk of supervised slots in; sums of the losses out, and the gradient in the place of the logits.

Shapes: C slots of the chunk, V vocabulary, K stored teacher ids. Logits may be in half precision; sums are float32.
The stored ids are taken out of the logits first, so that what is left is the student's tail, and put back as gradients
last. Between the two each logit is read twice and written once, in a function that is compiled on a GPU.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kidcore.models.trees.flex import allow_many_shapes
from train.loss.losses import Divergence, masses

DensePart = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor | None]]

_LOG = logging.getLogger(__name__)


class Slots(NamedTuple):
    """What C slots learn: see train.loss.head.Targets."""

    gold_C: Tensor
    count_C: Tensor
    ids_CK: Tensor
    logprobs_CK: Tensor
    tail_C: Tensor
    is_gold_C: Tensor | None = None


def chunk_loss(
    logits_CV: Tensor, slots: Slots, scales: tuple[Tensor, Tensor], divergence: Divergence | None, wants_grad: bool
) -> tuple[Tensor, Tensor]:
    """Sums of -log q(gold) and of the divergence; with `wants_grad`, `logits_CV` becomes the gradient in the logits of the
    two sums times `scales`, else it is spoilt."""
    index_C1 = slots.gold_C.clamp_min(0)[:, None]
    gold_C = logits_CV.gather(1, index_C1)[:, 0]
    if divergence is not None and slots.ids_CK.shape[1] == 0:
        divergence = None
    inside_CK = None
    if divergence is not None:
        inside_CK = logits_CV.gather(1, slots.ids_CK)
        logits_CV.scatter_(1, slots.ids_CK, -torch.inf)
    mle, kd, mle_C, inside_CK = _inner(logits_CV)(logits_CV, gold_C, inside_CK, slots, scales, divergence, wants_grad)
    if wants_grad:
        if inside_CK is not None:
            logits_CV.scatter_(1, slots.ids_CK, inside_CK)
        logits_CV.scatter_add_(1, index_C1, -mle_C[:, None].to(logits_CV.dtype))
    return mle, kd


def dense_part(
    logits_CV: Tensor,
    gold_C: Tensor,
    inside_CK: Tensor | None,
    slots: Slots,
    scales: tuple[Tensor, Tensor],
    divergence: Divergence | None,
    wants_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """All that is done for each logit, and what needs it: the two sums, the scale of each slot's -log q(gold), and the
    gradient at the stored ids, whose logits are `inside_CK`; to be compiled."""
    has_gold_C = slots.gold_C >= 0
    mle_C = has_gold_C * scales[0]
    wide_CV = logits_CV.float()
    outside_C = wide_CV.logsumexp(-1)
    zero = outside_C.new_zeros(())
    if divergence is None or inside_CK is None:
        mle = torch.where(has_gold_C, outside_C - gold_C.float(), zero).sum()
        if wants_grad:
            _write_gradient(logits_CV, wide_CV, outside_C, mle_C)
        return mle, zero, mle_C, None
    number_K = torch.arange(slots.ids_CK.shape[1], device=logits_CV.device)
    stored_CK = number_K < slots.count_C[:, None]
    # A slot without a teacher has lost the logit of its first id as well.
    taken_CK = number_K < slots.count_C.clamp_min(1)[:, None]
    inside_CK = inside_CK.float()
    total_C = torch.logaddexp(outside_C, torch.where(taken_CK, inside_CK, -torch.inf).logsumexp(-1))
    mle = torch.where(has_gold_C, total_C - gold_C.float(), zero).sum()
    log_q_CK = inside_CK - total_C[:, None]
    x = masses((slots.logprobs_CK, slots.tail_C, stored_CK), log_q_CK, (outside_C - total_C).exp(), slots.is_gold_C)
    result = divergence(x)
    has_kd_C = slots.count_C > 0
    # Rounding can leave a value a few 1e-8 below zero where the masses agree.
    kd = torch.where(has_kd_C, result.value_N.clamp_min(0.0), zero).sum()
    if not wants_grad:
        return mle, kd, mle_C, None
    kd_C = has_kd_C * scales[1]
    m_C = result.a_NK.sum(-1) + result.a_tail_N
    _write_gradient(logits_CV, wide_CV, total_C, torch.where(has_kd_C, mle_C + kd_C * (result.w_tail_N - m_C), mle_C))
    grad_CK = log_q_CK.exp() * mle_C[:, None] + kd_C[:, None] * (result.a_NK - x.q_NK * m_C[:, None])
    # Padding repeats the first id, so it must write the first value; a slot without a teacher writes what MLE asks.
    grad_CK = torch.where(stored_CK | ~has_kd_C[:, None], grad_CK, grad_CK[:, :1])
    return mle, kd, mle_C, grad_CK.to(logits_CV.dtype)


def _write_gradient(logits_CV: Tensor, wide_CV: Tensor, total_C: Tensor, factor_C: Tensor) -> None:
    wide_CV.sub_(total_C[:, None]).exp_().mul_(factor_C[:, None])
    if wide_CV.dtype != logits_CV.dtype:
        logits_CV.copy_(wide_CV)


def _inner(logits_CV: Tensor) -> DensePart:
    if logits_CV.device.type != "cuda":
        # A compiler may be missing there, and the chunk stays in the cache.
        return dense_part
    # The vocabulary is one for all chunks: its size as a constant makes the better kernel.
    torch._dynamo.mark_static(logits_CV, 1)
    return compiled_or_plain()


@functools.cache
def compiled_or_plain() -> DensePart:
    """`dense_part` compiled, until that fails."""
    allow_many_shapes()
    plain: DensePart = dense_part
    chosen = compiled = torch.compile(plain, dynamic=True, fullgraph=True)

    def run(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        nonlocal chosen
        try:
            return chosen(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            if chosen is not compiled:
                raise
            _LOG.warning("the loss runs uncompiled, because it does not compile here (%s)", type(error).__name__)
            _LOG.debug("compiling the loss failed", exc_info=True)
            chosen = plain
            return chosen(*arguments)

    return run
