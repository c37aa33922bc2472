"""The trunk's hidden states in; how well the student knows gold, when to stop, and what the teacher holds likely out.

No gradients. Shapes as in train.loss.head: R rows, M slots, C slots of a chunk, V vocabulary, K stored teacher ids.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from kidcore.method.overlap import MOST_COMPARED
from train.loss.head import Targets, chunk_slots

NUM_GOLD, NUM_OVERLAP = 5, 5
NUM_SUMS = NUM_GOLD + NUM_OVERLAP


def knowledge_sums(hidden_RD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets: Targets, eos_id: int) -> Tensor:
    """The sums of a GoldKnowledge over the slots with gold, and of an Overlap over those with a teacher, in their order, float64.

    A second product with the LM head: at SQL positions alone, and in evaluations, that is a few hundredths of the forward pass.
    """
    device = hidden_RD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
    with torch.no_grad(), torch.autocast(device, enabled=False):
        head = (hidden_RD, weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype))
        return torch.cat([gold_sums(*head, targets, eos_id), overlap_sums(*head, targets)])


def gold_sums(hidden_RD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets: Targets, eos_id: int) -> Tensor:
    """Of gold tokens and of the ends of sequences: how many, their NLL, and of the tokens those that are the first choice."""
    has_gold_M = targets.gold_M >= 0
    row_M, gold_M = targets.row_M[has_gold_M], targets.gold_M[has_gold_M]
    sums = torch.zeros(NUM_GOLD, dtype=torch.float64, device=hidden_RD.device)
    for part, logits_CV in _logits(hidden_RD, weight_VD, bias_V, row_M):
        gold_C = gold_M[part]
        nll_C = torch.nn.functional.cross_entropy(logits_CV, gold_C, reduction="none").double()
        first_C, is_end_C = logits_CV.argmax(-1) == gold_C, gold_C == eos_id
        is_token_C = ~is_end_C
        parts = (is_token_C, nll_C * is_token_C, first_C & is_token_C, is_end_C, nll_C * is_end_C)
        sums += torch.stack([x.sum().double() for x in parts])
    return sums


def overlap_sums(hidden_RD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets: Targets) -> Tensor:
    """Of positions with stored ids: how many, and how far the student's likeliest tokens and its mass are among these."""
    has_teacher_M = targets.count_M > 0
    row_M, count_M, ids_MK = targets.row_M[has_teacher_M], targets.count_M[has_teacher_M], targets.ids_MK[has_teacher_M]
    sums = torch.zeros(NUM_OVERLAP, dtype=torch.float64, device=hidden_RD.device)
    number_K = torch.arange(ids_MK.shape[1], device=hidden_RD.device)
    for part, logits_CV in _logits(hidden_RD, weight_VD, bias_V, row_M):
        count_C, ids_CK = count_M[part], ids_MK[part]
        stored_CK = number_K < count_C[:, None]
        best_CT = logits_CV.topk(min(MOST_COMPARED, logits_CV.shape[-1]), dim=-1).indices
        # Padding repeats a stored id, so it makes nothing stored that is not.
        is_stored_CT = (best_CT[:, :, None] == ids_CK[:, None, :]).any(-1)
        is_compared_CT = torch.arange(best_CT.shape[1], device=hidden_RD.device) < count_C[:, None]
        mass_C = torch.where(stored_CK, logits_CV.log_softmax(-1).gather(1, ids_CK), -torch.inf).exp().sum(-1)
        parts = (count_C > 0, is_stored_CT[:, 0], is_compared_CT, is_stored_CT & is_compared_CT, mass_C.double())
        sums += torch.stack([x.sum().double() for x in parts])
    return sums


def _logits(hidden_RD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, row_M: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The float32 logits of some rows, a chunk at a time, multiplied in the precision of the head."""
    # They are widened all at once.
    size = chunk_slots(len(row_M), weight_VD.shape[0], torch.float32, hidden_RD.device)
    for start in range(0, len(row_M), size):
        hidden_CD = hidden_RD[row_M[start : start + size]].to(weight_VD.dtype)
        yield slice(start, start + size), torch.nn.functional.linear(hidden_CD, weight_VD, bias_V).float()
