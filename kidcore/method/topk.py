"""A teacher's answer in, what is kept of its distributions out: top-K ids, float16 log-probabilities, the mass outside."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kidcore.models.backends.base import TopK

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Stored:
    """One row's distributions, cut to what is stored: the flat columns of the schema."""

    topk_count: NDArray[np.int16]
    topk_ids: Ids
    topk_logprobs: NDArray[np.float16]
    tail: NDArray[np.float32]
    actual_logprob: NDArray[np.float32]
    gold_logprob: NDArray[np.float32]


def cut(answer: TopK, actual: Ids, gold: Ids, tail_mass: float, vocab_size: int) -> Stored:
    """Keep the likeliest ids until the mass outside them is below `tail_mass` (at least one, at most all).

    Ids from `vocab_size` on are the padding rows that some models have; a student may lack them, so they go to the tail.

    The tail is what is really left out, in float64 from the engine's log-probabilities before they are rounded to
    float16: rebuilt from the rounded ones it is wrong by up to 15 times on peaked positions (METHOD).
    """
    is_token = answer.ids < vocab_size
    outside = np.maximum(1.0 - np.cumsum(np.exp(answer.logprobs.astype(np.float64)) * is_token, axis=1), 0.0)
    enough = outside < tail_mass
    width = answer.ids.shape[1]
    count = np.where(enough.any(axis=1), enough.argmax(axis=1) + 1, width)
    kept = (np.arange(width) < count[:, None]) & is_token
    found = answer.ids == gold[:, None]
    among = answer.logprobs[np.arange(len(gold)), found.argmax(axis=1)]
    unknown = np.where(found.any(axis=1), among, np.float32(np.nan))
    return Stored(
        topk_count=kept.sum(axis=1).astype(np.int16),
        topk_ids=answer.ids[kept],
        topk_logprobs=answer.logprobs[kept].astype(np.float16),
        tail=outside[np.arange(len(count)), count - 1].astype(np.float32),
        actual_logprob=answer.actual_logprob,
        gold_logprob=np.where(actual == gold, answer.actual_logprob, unknown).astype(np.float32),
    )


def keep_fewer(stored: Stored, top_k: int) -> Stored:
    """At most the `top_k` likeliest of the ids that are stored; the mass of the others joins the tail.

    As if `cut` had been given fewer ids, but for three things: what joins the tail was rounded to float16 (a log-probability of
    10 is off by 0.4% at most, and so is its share of the tail); gold is known wherever it was; and padding rows take no places.
    """
    count = stored.topk_count.astype(np.int64)
    position = np.repeat(np.arange(len(count)), count)
    rank = np.arange(len(position)) - np.repeat(np.cumsum(count) - count, count)
    kept = rank < top_k
    lost = np.exp(stored.topk_logprobs[~kept].astype(np.float64))
    tail = stored.tail + np.bincount(position[~kept], lost, len(count))
    return replace(
        stored,
        topk_count=np.minimum(count, top_k).astype(np.int16),
        topk_ids=stored.topk_ids[kept],
        topk_logprobs=stored.topk_logprobs[kept],
        tail=np.minimum(tail, 1.0).astype(np.float32),
    )
