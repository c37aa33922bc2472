"""A way to ask a server in, its scores of fixed sequences out: what tells its model from another one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kidcore.models.backends.served_wire import read_whole_prompt, whole_prompt

_SEQUENCES, _LENGTH = 2, 40
_SAME = 0.03
"""Mean difference of log-probabilities up to which two servers hold one model. Half-precision rounding differs by less between
batches and devices; other weights differ by more than that on random tokens.
"""


def fixed_scores(
    ask: Callable[[Mapping[str, Any]], Mapping[str, Any]], model: str, vocab_size: int, max_length: int
) -> tuple[float, ...]:
    """Log-probabilities of the tokens that stand in the fixed sequences, and of the likeliest beside each."""
    length = min(_LENGTH, max_length)
    found: list[float] = []
    for ids in np.random.default_rng(0).integers(0, vocab_size, size=(_SEQUENCES, length)).tolist():
        for _, logprobs, actual in read_whole_prompt(ask(whole_prompt(model, ids, 1)), ids, 1):
            found += [round(actual, 5), round(float(logprobs.max()), 5)]
    return tuple(found)


def are_same(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether one model gave both."""
    return len(ours) == len(theirs) and float(np.abs(np.subtract(ours, theirs)).mean()) <= _SAME
