"""Sequences in, the teacher's top-K, tail and log-probabilities at every SQL position (EOS included) out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kidpipe.backends.base import Backend, ScoreRequest, TopK
from kidpipe.columns import lists, make_table
from kidpipe.config import ScoreSettings
from kidpipe.graph import Output, Task
from kidpipe.schemas import GOLD_SCORE, SCORE
from pipeline.rows import Tokens, by_shared_prefix, in_row_order, usable

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


def gold_score(settings: ScoreSettings, tokens: Tokens, backend: Backend, task: Task) -> Output:
    """Score the gold sequence of each example."""
    ingest = usable(task.tables["ingest"])
    prompts, gold = lists(ingest, "prompt_ids"), lists(ingest, "gold_ids")
    stored = _score(settings, tokens, backend, prompts, gold, gold, task.tick)
    columns = {
        "example_id": ingest.column("example_id").to_pylist(),
        "db_id": ingest.column("db_id").to_pylist(),
        "prompt_ids": prompts,
        "gold_ids": gold,
        **_columns(stored),
    }
    del columns["gold_logprob"]
    return Output(make_table(GOLD_SCORE, columns), _counts(stored))


def score(settings: ScoreSettings, tokens: Tokens, backend: Callable[[], Backend], task: Task) -> Output:
    """Score the imperfect sequence of each row; where nothing was rewritten the gold scores are the answer already."""
    gold_rows, rewrites = task.tables["gold_score"], task.tables["rewrite"]
    prompts, gold = lists(gold_rows, "prompt_ids"), lists(gold_rows, "gold_ids")
    imperfect = lists(rewrites, "imperfect_ids")
    assert gold_rows.column("example_id").equals(rewrites.column("example_id"))
    stored = stored_rows(gold_rows)
    changed = [row for row in range(len(gold)) if not np.array_equal(gold[row], imperfect[row])]
    task.tick(len(gold) - len(changed))
    if changed:
        pick: Callable[[Sequence[Any]], list[Any]] = lambda rows: [rows[row] for row in changed]  # noqa: E731
        anew = _score(settings, tokens, backend(), pick(prompts), pick(imperfect), pick(gold), task.tick)
        for row, value in zip(changed, anew, strict=True):
            stored[row] = value
    columns = {
        "example_id": rewrites.column("example_id").to_pylist(),
        "db_id": rewrites.column("db_id").to_pylist(),
        "view": rewrites.column("view").to_pylist(),
        "prompt_ids": prompts,
        "gold_ids": gold,
        "imperfect_ids": imperfect,
        "masked": lists(rewrites, "masked"),
        **_columns(stored),
    }
    return Output(make_table(SCORE, columns), _counts(stored) | {"reused_gold": len(gold) - len(changed)})


def _score(
    settings: ScoreSettings,
    tokens: Tokens,
    backend: Backend,
    prompts: Sequence[Ids],
    sql: Sequence[Ids],
    gold: Sequence[Ids],
    tick: Callable[[int], None],
) -> list[Stored]:
    order = by_shared_prefix(prompts)
    end = np.array([tokens.eos_id], dtype=np.int32)
    requests = [ScoreRequest(np.concatenate([prompts[row], sql[row], end]), len(prompts[row])) for row in order]
    stored = []
    for row, answer in zip(order, backend.score(requests, min(settings.top_k, backend.vocab_size)), strict=True):
        stored.append(cut(answer, np.append(sql[row], end), np.append(gold[row], end), settings.tail_mass, tokens.vocab_size))
        tick(1)
    return in_row_order(order, stored)


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


def stored_rows(gold_rows: pa.Table) -> list[Stored]:
    """The rows of a GOLD_SCORE shard as they were stored."""
    names = ("topk_count", "topk_ids", "topk_logprobs", "tail", "actual_logprob", "actual_logprob")
    return [Stored(*row) for row in zip(*(lists(gold_rows, name) for name in names), strict=True)]


def _columns(stored: Sequence[Stored]) -> dict[str, list[Any]]:
    return {name: [getattr(row, name) for row in stored] for name in Stored.__dataclass_fields__}


def _counts(stored: Sequence[Stored]) -> dict[str, int]:
    return {
        "in": len(stored),
        "out": len(stored),
        "positions": sum(len(row.topk_count) for row in stored),
        "stored_ids": sum(len(row.topk_ids) for row in stored),
    }
