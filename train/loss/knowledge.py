"""The trunk's hidden states at gold tokens in; how well the student knows them, and when to stop, out. No gradients.

Shapes as in train.loss.head: R rows, M slots, C slots of a chunk, V vocabulary.
"""

import torch
from torch import Tensor

from train.loss.head import Targets, chunk_slots

NUM_SUMS = 5


def gold_sums(hidden_RD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets: Targets, eos_id: int) -> Tensor:
    """The sums of a GoldKnowledge over the slots with gold, in its order, float64.

    A second product with the LM head: at SQL positions alone, and in evaluations, that is a few hundredths of the forward pass.
    """
    device = hidden_RD.device
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weight_VD.dtype
    has_gold_M = targets.gold_M >= 0
    row_M, gold_M = targets.row_M[has_gold_M], targets.gold_M[has_gold_M]
    sums = torch.zeros(NUM_SUMS, dtype=torch.float64, device=device)
    size = chunk_slots(len(gold_M), weight_VD.shape[0], dtype, device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        weight, bias = weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype)
        for start in range(0, len(gold_M), size):
            gold_C = gold_M[start : start + size]
            hidden_CD = hidden_RD[row_M[start : start + size]].to(dtype)
            logits_CV = torch.nn.functional.linear(hidden_CD, weight, bias).float()
            nll_C = torch.nn.functional.cross_entropy(logits_CV, gold_C, reduction="none").double()
            first_C, is_end_C = logits_CV.argmax(-1) == gold_C, gold_C == eos_id
            is_token_C = ~is_end_C
            parts = (is_token_C, nll_C * is_token_C, first_C & is_token_C, is_end_C, nll_C * is_end_C)
            sums += torch.stack([part.sum().double() for part in parts])
    return sums
