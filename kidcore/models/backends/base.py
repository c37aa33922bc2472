"""What a teacher engine is asked and what it answers; importing this loads no engine."""

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kidcore.advance import Advance, unheard
from kidcore.config.config import EngineSettings
from kidcore.errors import KidpipeError
from kidcore.models.backends.facts import EngineFacts
from kidcore.models.sources import ModelSource


class EngineDied(KidpipeError):
    """The process of an engine ended while it was asked: an accident, which another engine may be spared."""


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

    Raises:
        KidpipeError: one of them is no number. Damaged weights and activations beyond float16 end so, and whatever is made of
            them looks like an answer.
    """

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    actual_logprob: NDArray[np.float32]

    def __post_init__(self) -> None:
        if np.isnan(self.actual_logprob).any() or np.isnan(self.logprobs).any():
            raise KidpipeError(
                "the model computes no numbers (NaN)",
                fix="copy its weights again, or run it in bfloat16 or float32 (teacher.dtype, eval.dtype, predict.dtype)",
            )


@dataclass(frozen=True)
class Sampling:
    """How to draw answers instead of taking the likeliest token each time.

    Each answer has random numbers of its own, decided by the seed, the prompt's tokens and the answer's number: answers don't
    depend on what else is asked in the same call, nor on the order.
    """

    temperature: float
    seed: int
    number: int = 1
    """Answers a prompt."""

    def seed_of(self, prompt: Sequence[int], number: int) -> int:
        """The seed of one answer, below 2 ** 63."""
        digest = hashlib.sha256(f"{self.seed}|{number}|".encode() + np.asarray(prompt, dtype=np.int32).tobytes()).digest()
        return int.from_bytes(digest[:8], "little") >> 1


class Answering(Protocol):
    """What continues prompts: an engine, or something that remembers what one answered."""

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence, prompt and answer together."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        sampling: Sampling | None = None,
        advance: Advance = unheard,
    ) -> Iterator[list[int]]:
        """Continuations, in order, without the stop token; shorter where `max_length` is reached.

        Greedy unless `sampling` says otherwise; with it, `sampling.number` answers to the first prompt, then to the next.
        """
        ...


class Backend(Answering, Protocol):
    """An engine that holds one model.

    The answers to a call depend on that call alone, not on earlier ones: a shard scored again after a crash comes out
    bit-identical on the same machine (an engine in processes of its own, as on GPUs, promises it only up to rounding).
    """

    name: str
    facts: EngineFacts
    vocab_size: int
    """Rows of the output layer. Ids beyond the tokenizer's (padding rows) can be among the likeliest."""

    def score(self, requests: Sequence[ScoreRequest], top_k: int, advance: Advance = unheard) -> Iterator[TopK]:
        """One TopK a request, in order. Raises KidpipeError for K or lengths beyond the engine's limits.

        Args:
            advance: told of answers when they are there: in order they may come much later.
        """
        ...

    def close(self) -> None:
        """Free the engine's memory. Closing twice is harmless."""
        ...


def check_score(backend: Backend, requests: Sequence[ScoreRequest], top_k: int) -> None:
    """Refuse what `backend` cannot score before any work is done."""
    if not 1 <= top_k <= backend.vocab_size:
        raise KidpipeError(f"K = {top_k} is outside 1 to {backend.vocab_size}, the model's vocabulary", fix="lower score.top_k")
    for index, request in enumerate(requests):
        _check_ids(backend, request.token_ids, f"request {index}")
        if not 1 <= request.start < len(request.token_ids):
            raise KidpipeError(
                f"nothing to score: start {request.start} in a sequence of {len(request.token_ids)} tokens",
                where=f"request {index}",
                fix="a scored position needs at least one token before it",
            )


def check_prompts(
    backend: Backend, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling | None = None
) -> None:
    """Refuse what `backend` cannot continue before any work is done."""
    if sampling and not (sampling.temperature > 0 and sampling.number >= 1):
        raise KidpipeError(
            f"{sampling.number} samples at temperature {sampling.temperature} were asked for",
            fix="set eval.samples to 1 or more and eval.sample_temperature above 0",
        )
    if max_new_tokens < 1:
        raise KidpipeError(f"{max_new_tokens} new tokens were asked for", fix="set eval.max_new_tokens to 1 or more")
    for index, prompt in enumerate(prompts):
        _check_ids(backend, np.asarray(prompt, dtype=np.int64), f"prompt {index}")
        if len(prompt) == backend.max_length:
            raise KidpipeError(
                f"a prompt of {len(prompt)} tokens leaves no room to generate (limit {backend.max_length})",
                where=f"prompt {index}",
                fix="lower ingest.max_prompt_tokens, or use a model that reads longer sequences",
            )


def _check_ids(backend: Backend, ids: NDArray[np.int32] | NDArray[np.int64], where: str) -> None:
    if len(ids) == 0:
        raise KidpipeError("an empty sequence was given to the engine", where=where, fix="drop empty rows before")
    if len(ids) > backend.max_length:
        raise KidpipeError(
            f"a sequence of {len(ids)} tokens is longer than the model takes ({backend.max_length})",
            where=where,
            fix="lower ingest.max_prompt_tokens and ingest.max_sql_tokens, or use a model that reads longer sequences",
        )
    if int(ids.min()) < 0 or int(ids.max()) >= backend.vocab_size:
        raise KidpipeError(
            f"token ids run from {int(ids.min())} to {int(ids.max())}, the model's vocabulary from 0 to {backend.vocab_size - 1}",
            where=where,
            fix="the rows were tokenised for another model: run ingest with this model's tokenizer",
        )


def before_stop(ids: Sequence[int], stop_ids: Container[int]) -> list[int]:
    """An answer up to the first token that ends it."""
    return list(takewhile(lambda token: token not in stop_ids, ids))


def in_ranked_order(
    ids: NDArray[np.int32], logprobs: NDArray[np.float32], top_k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The `top_k` best of each row, best first, ties by lower id. Shapes [n, >= K] in, [n, K] out."""
    order = np.lexsort((ids, -logprobs), axis=-1)[:, :top_k]
    return np.take_along_axis(ids, order, axis=-1), np.take_along_axis(logprobs, order, axis=-1)


class Opener(Protocol):
    """`open_engine` of the file of an engine: a model in a folder in, the engine with it out.

    `dtype` is the precision of the weights, `max_top_k` the largest K that will be asked, `max_length` the tokens of the
    longest sequence. Raises KidpipeError where the engine cannot run the model here.
    """

    def __call__(
        self, source: ModelSource, engine: EngineSettings, dtype: str, *, max_top_k: int, max_length: int, verbose: bool
    ) -> Backend: ...
