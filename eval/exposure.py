"""A student's and a teacher's scores of gold and of generated SQL in, ExAccErr (excess accumulated error) out.

Arora et al. 2022: the student's regret against an oracle, here the teacher, on the student's own generations, over what the
same error a step would give if errors did not accumulate. 0 = no exposure bias; 50 = half as much error again.
"""

import math
from collections.abc import Iterable, Sequence

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


def measure(
    teacher: Backend,
    student: Backend,
    prompts: Sequence[Sequence[int]],
    golds: Sequence[Sequence[int]],
    generations: Sequence[Sequence[int]],
    top_k: int = 64,
    length: int = 64,
) -> float:
    """ExAccErr of `student` against `teacher` on prompts with gold and with the student's own SQL, as token ids with EOS."""
    return exaccerr(
        _divergences(teacher, student, prompts, generations, top_k), _divergences(teacher, student, prompts, golds, top_k), length
    )


def _divergences(
    teacher: Backend, student: Backend, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], top_k: int
) -> list[NDArray[np.float64]]:
    requests = [
        ScoreRequest(np.asarray([*prompt, *answer], dtype=np.int32), len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer
    ]
    scored = zip(teacher.score(requests, top_k), student.score(requests, top_k), strict=True)
    return [divergence_by_position(by_teacher, by_student) for by_teacher, by_student in scored]


def _rest(logprobs: NDArray[np.float64]) -> float:
    """The mass outside, kept above zero: it stands in a logarithm."""
    return max(1e-12, 1.0 - float(np.exp(logprobs).sum()))


def _by_step(rows: Iterable[NDArray[np.float64]], length: int) -> list[float]:
    values = list(rows)
    steps = range(min(length, max(map(len, values), default=0)))
    return [float(np.mean([row[step] for row in values if len(row) > step])) for step in steps]
