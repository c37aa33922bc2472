"""What a teacher engine is asked and what it answers; importing this loads no engine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoreRequest:
    """Log-probabilities wanted at positions `start` to the end of `token_ids`, start >= 1.

    Position p is judged from the tokens before it. `token_ids` is int32 [L].
    """

    token_ids: NDArray[np.int32]
    start: int


@dataclass(frozen=True)
class TopK:
    """The answer to a ScoreRequest of n = L - start positions.

    `ids` int32 [n, K] and `logprobs` float32 [n, K] are the K likeliest tokens, best first (ties: lower id first);
    `actual_logprob` float32 [n] is that of the token that stands there.
    """

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    actual_logprob: NDArray[np.float32]


class Backend(Protocol):
    """An engine that holds one model."""

    name: str
    vocab_size: int
    max_length: int
    """Tokens of the longest sequence, prompt and answer together."""

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> Iterator[TopK]:
        """One TopK a request, in order. Raises KidpipeError for K or lengths beyond the engine's limits."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_ids: Sequence[int]
    ) -> Iterator[list[int]]:
        """Greedy continuations, in order, without the stop token."""
        ...

    def close(self) -> None:
        """Free the engine's memory."""
        ...
