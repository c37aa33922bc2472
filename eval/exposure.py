"""A student's and a teacher's scores of gold and of generated SQL in, ExAccErr (excess accumulated error) out.

Arora et al. 2022: the student's regret against an oracle, here the teacher, on the student's own generations, over what the
same error a step would give if errors did not accumulate. 0 = no exposure bias; 50 = half as much error again.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kidpipe.backends.base import Backend, ScoreRequest, TopK


def divergence_by_position(teacher: TopK, student: TopK) -> NDArray[np.float64]:
    """KL(teacher || student) at each position [n], over the tokens that both scored and one bucket for the rest.

    Merging tokens into a bucket can only lower a divergence, so this is a lower bound of the full one.
    """
    result = np.zeros(len(teacher.ids))
    for position, (ids, logprobs) in enumerate(zip(teacher.ids, teacher.logprobs, strict=True)):
        _common, ours, theirs = np.intersect1d(ids, student.ids[position], return_indices=True)
        log_p = logprobs[ours].astype(np.float64)
        log_q = student.logprobs[position][theirs].astype(np.float64)
        p_rest, q_rest = _rest(log_p), _rest(log_q)
        inside = float(np.sum(np.exp(log_p) * (log_p - log_q)))
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


@dataclass(frozen=True)
class Scored:
    """One model's scores of gold and of generated answers."""

    golds: list[TopK]
    generations: list[TopK]


def score(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    golds: Sequence[Sequence[int]],
    generations: Sequence[Sequence[int]],
    top_k: int = 64,
) -> Scored:
    """Score answers, as token ids with EOS. The two models can be asked one after the other, never both in memory."""
    return Scored(*(list(backend.score(_requests(prompts, answers), top_k)) for answers in (golds, generations)))


def measure(teacher: Scored, student: Scored, length: int = 64) -> float:
    """ExAccErr in percent, of a student against a teacher that scored the same answers."""
    on_generated, on_gold = (
        [divergence_by_position(*pair) for pair in zip(ours, theirs, strict=True)]
        for ours, theirs in ((teacher.generations, student.generations), (teacher.golds, student.golds))
    )
    return exaccerr(on_generated, on_gold, length)


def _requests(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[ScoreRequest]:
    return [
        ScoreRequest(np.asarray([*prompt, *answer], dtype=np.int32), len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer
    ]


def _rest(logprobs: NDArray[np.float64]) -> float:
    """The mass outside, kept above zero: it stands in a logarithm."""
    return max(1e-12, 1.0 - float(np.exp(logprobs).sum()))


def _by_step(rows: Iterable[NDArray[np.float64]], length: int) -> list[float]:
    values = list(rows)
    steps = range(min(length, max(map(len, values), default=0)))
    return [float(np.mean([row[step] for row in values if len(row) > step])) for step in steps]
