"""Score requests and a model in; answers out, from forward passes in which what prompts have in common stands once.

Shapes: L rows of a pack, D hidden size, n wanted positions of a request, N of a chunk, V vocabulary, K likeliest.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kidcore.models.backends.base import ScoreRequest, TopK, in_ranked_order
from kidcore.models.trees.attention import has_tree_attention, make_mask
from kidcore.models.trees.layout import best_layout, use_tree_attention
from kidcore.models.trees.tree import Int32, build_tree, shared_length, sort_key
from kidcore.models.trees.trunk import head_is_plain, run_trunk

_LOG = logging.getLogger(__name__)
_LOGITS_BYTES = 1 << 28
"""Bound on the float32 logits of one chunk."""


def can_share(model: Any) -> bool:
    """Whether requests to `model` can be packed; says so where they can't. On the way, the model gets tree attention."""
    layout, reason = best_layout(model)
    if layout == "tree" and not head_is_plain(model):
        layout, reason = "none", f"{model.config.model_type} changes its logits behind the LM head"
    if layout != "tree":
        _LOG.warning("scoring: each prompt is read anew, because %s", reason)
        return False
    if not has_tree_attention(model):
        use_tree_attention(model)
    return True


def plan_packs(sequences: Sequence[Int32], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of sequences that together have at most `batch_tokens` rows; a longer one is alone."""
    pack: list[int] = []
    rows = 0
    for number in sorted(range(len(sequences)), key=lambda number: sort_key(sequences[number])):
        tokens = sequences[number]
        fresh = len(tokens) - (shared_length(sequences[pack[-1]], tokens) if pack else 0)
        if pack and rows + fresh > batch_tokens:
            yield pack
            pack, rows, fresh = [], 0, len(tokens)
        pack.append(number)
        rows += fresh
    if pack:
        yield pack


@torch.inference_mode()
def score_pack(model: Any, requests: Sequence[ScoreRequest], top_k: int) -> list[TopK]:
    """The answers to requests that go through the model together."""
    # Nothing is predicted from a last token.
    tree = build_tree([request.token_ids[:-1] for request in requests])
    head = model.get_output_embeddings()
    device = head.weight.device
    ids_1L, positions_1L = (torch.from_numpy(x)[None].to(device) for x in (tree.input_ids, tree.position_ids))
    hidden_LD = run_trunk(model, ids_1L, positions_1L, make_mask(model, tree.tout, device))
    rows = np.concatenate([path[request.start - 1 :] for request, path in zip(requests, tree.paths, strict=True)])
    actual = np.concatenate([request.token_ids[request.start :] for request in requests]).astype(np.int64)
    size = max(1, _LOGITS_BYTES // (4 * head.weight.shape[0]))
    parts = [
        rank_logits(
            head(hidden_LD[torch.from_numpy(rows[begin : begin + size]).to(device)]),
            torch.from_numpy(actual[begin : begin + size]).to(device),
            top_k,
        )
        for begin in range(0, len(rows), size)
    ]
    return split([np.concatenate(part) for part in zip(*parts, strict=True)], requests)


def split(arrays: Sequence[NDArray[Any]], requests: Sequence[ScoreRequest]) -> list[TopK]:
    """Ids, log-probabilities and actual log-probabilities of all wanted positions, cut into the answers."""
    ends = np.cumsum([len(request.token_ids) - request.start for request in requests])[:-1]
    return [TopK(*parts) for parts in zip(*(np.split(array, ends) for array in arrays), strict=True)]


def rank_logits(
    logits_NV: Tensor, actual_N: Tensor, top_k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Ids and log-probabilities of the K likeliest, best first, and the log-probability of the tokens that stand there."""
    logits_NV = logits_NV.float()
    total_N1 = logits_NV.logsumexp(-1, keepdim=True)
    actual = (logits_NV.gather(-1, actual_N[:, None]) - total_N1)[:, 0].cpu().numpy()
    ids_NK, values_NK = _top_k(logits_NV, top_k)
    logprobs_NK = (values_NK - total_N1).cpu().numpy()
    return *in_ranked_order(ids_NK.cpu().numpy().astype(np.int32), logprobs_NK, top_k), actual


def _top_k(logits_NV: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Ids and logits of the K likeliest. Where tokens tie for the last place, torch.topk takes any: take the lowest ids.

    Logits that were computed in bfloat16 tie at almost every position.
    """
    values_NK, ids_NK = logits_NV.topk(top_k, dim=-1)
    last_N1 = values_NK[:, -1:]
    tied_T = ((logits_NV >= last_N1).sum(-1) > top_k).nonzero()[:, 0]
    if len(tied_T):
        number_V = torch.arange(logits_NV.shape[-1], dtype=torch.int32, device=logits_NV.device)
        # The lowest ids are the largest once negated; V stands behind them all.
        negated_TV = torch.where(logits_NV[tied_T] == last_N1[tied_T], -number_V, -logits_NV.shape[-1])
        lowest_TK = -negated_TV.topk(top_k, dim=-1).values.long()
        rank_K = torch.arange(top_k, device=logits_NV.device)
        above_T1 = (values_NK[tied_T] > last_N1[tied_T]).sum(-1, keepdim=True)
        chosen_TK = lowest_TK.gather(1, (rank_K - above_T1).clamp_min(0))
        ids_NK[tied_T] = torch.where(rank_K < above_T1, ids_NK[tied_T], chosen_TK)
    return ids_NK, values_NK
