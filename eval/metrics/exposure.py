"""A student's and a teacher's scores of gold and of generated SQL in, ExAccErr (excess accumulated error) out.

Arora et al. 2022: the student's regret against an oracle, here the teacher, on the student's own generations, over what the
same error a step would give if errors did not accumulate. 0 = no exposure bias; 50 = half as much error again.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kidcore.models.backends.base import Backend, ScoreRequest, TopK


@dataclass(frozen=True)
class Scores:
    """What is known of a model's distributions along one answer: by position the likeliest tokens and the mass outside them."""

    ids: Sequence[NDArray[np.int32]]
    logprobs: Sequence[NDArray[Any]]
    outside: Sequence[float]

    @classmethod
    def of(cls, topk: TopK) -> "Scores":
        """An engine's answer."""
        outside = [max(0.0, 1.0 - float(np.exp(row.astype(np.float64)).sum())) for row in topk.logprobs]
        return cls(list(topk.ids), list(topk.logprobs), outside)


def divergence_by_position(teacher: Scores, student: Scores) -> NDArray[np.float64]:
    """KL(teacher || student) at each position [n], over the tokens that both scored and one bucket for the rest.

    Merging tokens into a bucket can only lower a divergence, so this is a lower bound of the full one.
    """
    result = np.zeros(len(teacher.ids))
    for position in range(len(teacher.ids)):
        ids, others = teacher.ids[position], student.ids[position]
        _common, ours, theirs = np.intersect1d(ids, others, return_indices=True)
        log_p = teacher.logprobs[position].astype(np.float64)
        log_q = student.logprobs[position].astype(np.float64)
        p_rest = _rest(log_p, ours, teacher.outside[position])
        q_rest = _rest(log_q, theirs, student.outside[position])
        inside = float(np.sum(np.exp(log_p[ours]) * (log_p[ours] - log_q[theirs])))
        result[position] = max(0.0, inside + p_rest * (math.log(p_rest) - math.log(q_rest)))
    return result


def exaccerr(on_generated: Iterable[NDArray[np.float64]], on_gold: Iterable[NDArray[np.float64]], length: int) -> float:
    """ExAccErr in percent up to `length` steps, from the divergences along generated and along gold sequences.

    At each step the mean is taken over the sequences that reach it, so that long and short answers weigh alike.
    """
    steps_generated, steps_gold = _by_step(on_generated, length), _by_step(on_gold, length)
    shared = min(len(steps_generated), len(steps_gold))
    regret, expected = sum(steps_generated[:shared]), sum(steps_gold[:shared])
    return math.nan if expected == 0 else 100 * (regret - expected) / expected


def requests(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[ScoreRequest]:
    """What to ask a model: every position of each answer, given as token ids with EOS."""
    return [
        ScoreRequest(np.asarray([*prompt, *answer], dtype=np.int32), len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def score_answers(backend: Backend, asked: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
    """One model's scores. The two models can be asked one after the other, never both in memory."""
    return [Scores.of(topk) for topk in backend.score(asked, top_k)]


def measure(golds: Sequence[tuple[Scores, Scores]], generations: Sequence[tuple[Scores, Scores]], length: int = 64) -> float:
    """ExAccErr in percent, from (teacher's, student's) scores of gold answers and of the student's own."""
    on_gold, on_generated = ([divergence_by_position(*pair) for pair in pairs] for pairs in (golds, generations))
    return exaccerr(on_generated, on_gold, length)


def _rest(logprobs: NDArray[np.float64], common: NDArray[np.intp], outside: float) -> float:
    """The mass of all but the common tokens, kept above zero: it stands in a logarithm."""
    return max(1e-12, outside + float(np.exp(np.delete(logprobs, common)).sum()))


def _by_step(rows: Iterable[NDArray[np.float64]], length: int) -> list[float]:
    values = list(rows)
    steps = range(min(length, max(map(len, values), default=0)))
    return [float(np.mean([row[step] for row in values if len(row) > step])) for step in steps]
