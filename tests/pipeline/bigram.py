"""The smallest language model there is, a table of what follows what, as an engine; and tables of rows for the stages.

Every number that a stage stores can be worked out by hand from the table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from kidcore.advance import Advance, unheard
from kidcore.models.backends.base import Sampling, ScoreRequest, TopK, check_prompts, check_score, in_ranked_order
from kidcore.models.backends.facts import EngineFacts
from kidcore.models.tokenizers import Tokens
from kidcore.store.arrow import arrow_table
from kidcore.store.graph import Partition, Task
from kidcore.store.schemas import schema_of

EOS, MASK, SIZE = 0, 1, 12
WORDS = ("</s>", "<mask>", "SELECT", "a", "b", "FROM", "t", "u", "WHERE", "=", "1", "2")
FACTS = EngineFacts("bigram", "1", "cpu", "float32")
TOKENS = Tokens(MASK, EOS, SIZE, frozenset({EOS, MASK}))


def ids_of(sql: str) -> list[int]:
    return [WORDS.index(word) for word in sql.split()]


def decode(ids: list[int]) -> str:
    return " ".join(WORDS[index] for index in ids)


@dataclass
class Bigram:
    """Log-probabilities of the next token [V, V] by the token before it, drawn from a seed."""

    seed: int = 0
    vocab_size: int = SIZE
    max_length: int = 64
    name: str = "bigram"
    facts: EngineFacts = FACTS
    asked: list[Any] = field(default_factory=list)
    """What it was asked, in order: prompts or requests."""
    is_closed: bool = False

    def __post_init__(self) -> None:
        logits = np.random.default_rng(self.seed).normal(size=(self.vocab_size, self.vocab_size)) * 2
        self.logprobs = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)

    def score(self, requests: Sequence[ScoreRequest], top_k: int, advance: Advance = unheard) -> Iterator[TopK]:
        check_score(self, requests, top_k)
        self.asked += requests
        every = np.arange(self.vocab_size, dtype=np.int32)
        for request in requests:
            rows = self.logprobs[request.token_ids[request.start - 1 : -1]]
            ids, values = in_ranked_order(np.tile(every, (len(rows), 1)), rows, top_k)
            yield TopK(ids, values, rows[np.arange(len(rows)), request.token_ids[request.start :]])
            advance(1)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        sampling: Sampling | None = None,
        advance: Advance = unheard,
    ) -> Iterator[list[int]]:
        check_prompts(self, prompts, max_new_tokens, sampling)
        self.asked += prompts
        for prompt in prompts:
            for number in range(sampling.number if sampling else 1):
                rng = np.random.default_rng(sampling.seed_of(prompt, number)) if sampling else None
                yield self._answer(prompt[-1], min(max_new_tokens, self.max_length - len(prompt)), set(stop_ids), rng)
                advance(1)

    def _answer(self, last: int, most: int, stops: set[int], rng: np.random.Generator | None) -> list[int]:
        answer: list[int] = []
        while len(answer) < most:
            row = self.logprobs[last].astype(np.float64)
            last = int(row.argmax() if rng is None else rng.choice(len(row), p=np.exp(row) / np.exp(row).sum()))
            if last in stops:
                break
            answer.append(last)
        return answer

    def close(self) -> None:
        self.is_closed = True


def ingest_table(*sql: str, reasons: Sequence[str | None] = (), prompts: Sequence[list[int]] = (), db_id: str = "d") -> pa.Table:
    """Ingested rows with this gold SQL; a row with a reason has no tokens."""
    why = [*reasons, *[None] * (len(sql) - len(reasons))]
    asked = [*prompts, *[[2, 3 + (number + 2) % 3] for number in range(len(prompts), len(sql))]]
    columns: dict[str, list[Any]] = {
        "example_id": [f"train:{number}" for number in range(len(sql))],
        "db_id": [db_id] * len(sql),
        "question": ["q"] * len(sql),
        "gold_sql": list(sql),
        "schema_tokens": [1] * len(sql),
        "prompt_ids": [[] if reason else prompt for prompt, reason in zip(asked, why, strict=True)],
        "gold_ids": [[] if reason else ids_of(text) for text, reason in zip(sql, why, strict=True)],
        "gold_starts": [[] if reason else list(range(len(text.split()))) for text, reason in zip(sql, why, strict=True)],
        "reason": why,
    }
    return arrow_table(schema_of("ingest"), columns)


def mask_table(example_ids: Sequence[str], *masked: list[int], view: int = 0) -> pa.Table:
    columns = {
        "example_id": list(example_ids),
        "db_id": ["d"] * len(masked),
        "view": [view] * len(masked),
        "strategy": ["random"] * len(masked),
        "masked": list(masked),
    }
    return arrow_table(schema_of("mask"), columns)


class Counting:
    """What a stage reports as finished."""

    def __init__(self) -> None:
        self.rows = self.times = 0

    def __call__(self, rows: int, _under_way: int = 0, /) -> None:
        self.rows += rows
        self.times += 1


def task(view: int = 0, **tables: pa.Table) -> Task:
    rows = max((table.num_rows for table in tables.values()), default=0)
    return Task(Partition(0, rows, {}), view, tables, Counting())


def finished(one: Task) -> int:
    assert isinstance(one.advance, Counting)
    return one.advance.rows
