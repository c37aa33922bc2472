"""Sequences in, the teacher's top-K, tail and log-probabilities at every SQL position (EOS included) out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kidcore.advance import Advance
from kidcore.config.stage_settings import ScoreSettings
from kidcore.method.topk import Stored, cut
from kidcore.models.backends.base import Backend, ScoreRequest
from kidcore.models.tokenizers import Tokens
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.graph import Output, Task
from kidcore.store.schemas import schema_of
from pipeline.context import Context
from pipeline.rows import by_shared_prefix, in_row_order, usable

Ids = NDArray[np.int32]


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage under the settings of `context`, with its teacher."""
    return lambda task: score(context.config.score, context.tokens, context.open_teacher, task)


def gold_score(settings: ScoreSettings, tokens: Tokens, backend: Backend, task: Task) -> Output:
    """Score the gold sequence of each example."""
    ingest = usable(task.tables["ingest"])
    prompts, gold = lists(ingest, "prompt_ids"), lists(ingest, "gold_ids")
    stored = _score(settings, tokens, backend, prompts, gold, gold, task.advance)
    columns = {
        "example_id": ingest.column("example_id").to_pylist(),
        "db_id": ingest.column("db_id").to_pylist(),
        "prompt_ids": prompts,
        "gold_ids": gold,
        **stored_columns(stored),
    }
    del columns["gold_logprob"]
    return Output(arrow_table(schema_of("gold_score"), columns), _counts(stored))


def score(
    settings: ScoreSettings, tokens: Tokens, backend: Callable[[], Backend], task: Task, queries: str = "rewrite"
) -> Output:
    """Score the imperfect sequence of each row; where it is gold the gold scores are the answer already.

    Args:
        queries: the stage that made the sequences.
    """
    gold_rows, rewrites = task.tables["gold_score"], task.tables[queries]
    prompts, gold = lists(gold_rows, "prompt_ids"), lists(gold_rows, "gold_ids")
    imperfect = lists(rewrites, "imperfect_ids")
    assert gold_rows.column("example_id").equals(rewrites.column("example_id"))
    stored = stored_rows(gold_rows)
    changed = [row for row in range(len(gold)) if not np.array_equal(gold[row], imperfect[row])]
    if not changed:
        task.advance(len(gold))
    else:
        pick: Callable[[Sequence[Any]], list[Any]] = lambda rows: [rows[row] for row in changed]  # noqa: E731
        # Position by position gold can be looked up only where the sequence is as long.
        wanted = [gold[row] if len(gold[row]) == len(imperfect[row]) else imperfect[row] for row in changed]
        advance = _taking_along(task.advance, len(changed), len(gold))
        anew = _score(settings, tokens, backend(), pick(prompts), pick(imperfect), wanted, advance)
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
        **stored_columns(stored),
    }
    return Output(arrow_table(schema_of("score"), columns), _counts(stored) | {"reused_gold": len(gold) - len(changed)})


def _score(
    settings: ScoreSettings,
    tokens: Tokens,
    backend: Backend,
    prompts: Sequence[Ids],
    sql: Sequence[Ids],
    gold: Sequence[Ids],
    advance: Advance,
) -> list[Stored]:
    order = by_shared_prefix(prompts)
    end = np.array([tokens.eos_id], dtype=np.int32)
    requests = [ScoreRequest(np.concatenate([prompts[row], sql[row], end]), len(prompts[row])) for row in order]
    scored = backend.score(requests, min(settings.top_k, backend.vocab_size), advance)
    stored = [
        cut(answer, np.append(sql[row], end), np.append(gold[row], end), settings.tail_mass, tokens.vocab_size)
        for row, answer in zip(order, scored, strict=True)
    ]
    return in_row_order(order, stored)


def _taking_along(advance: Advance, computed: int, in_all: int) -> Advance:
    """`advance` for the rows that are computed, the reused ones spread among them: these cost nothing, and a rate that counts
    them all at once promises an end that is not near.
    """
    done = 0

    def advance_all(finished: int, under_way: int = 0, /) -> None:
        nonlocal done
        before, done = done * in_all // computed, done + finished
        advance(done * in_all // computed - before, under_way * in_all // computed)

    return advance_all


def stored_rows(scored: pa.Table) -> list[Stored]:
    """The rows of a shard of scores as they were stored; of gold's, what was scored is gold itself."""
    gold = "gold_logprob" if "gold_logprob" in scored.column_names else "actual_logprob"
    names = ("topk_count", "topk_ids", "topk_logprobs", "tail", "actual_logprob", gold)
    return [Stored(*row) for row in zip(*(lists(scored, name) for name in names), strict=True)]


def stored_columns(stored: Sequence[Stored]) -> dict[str, list[Any]]:
    """The columns that `stored_rows` reads."""
    return {name: [getattr(row, name) for row in stored] for name in Stored.__dataclass_fields__}


def _counts(stored: Sequence[Stored]) -> dict[str, int]:
    return {
        "in": len(stored),
        "out": len(stored),
        "positions": sum(len(row.topk_count) for row in stored),
        "stored_ids": sum(len(row.topk_ids) for row in stored),
    }
