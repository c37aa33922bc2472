"""Prompts in, a student's own answers out; the teacher scores them once, and training needs it no more.

An answer is kept whatever it is: its mistakes are what is learnt from. One that was cut off is kept up to there, and an empty one
is no SQL tokens: what the teacher thinks of its first token, the end, is still a lesson.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from kidcore.config.stage_settings import RolloutSettings
from kidcore.models.backends.base import Backend
from kidcore.models.tokenizers import Tokens, special_ids
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.graph import Output, Task
from kidcore.store.schemas import schema_of
from pipeline.context import Context
from pipeline.rewrite import parses
from pipeline.rows import by_shared_prefix, usable
from pipeline.sampling import sampling_of


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage under the settings of `context`, with the student that it names."""
    settings, stops = context.config.rollout, sorted({context.tokens.eos_id, *special_ids(context.tokenizer)})
    # A student that takes less than the teacher does: its prompts were made for the teacher.
    longest = min(context.longest, context.start.max_length if context.start else context.longest)

    def run(task: Task) -> Output:
        return rollout(settings, context.tokens, stops, longest, context.decode, context.dialect, context.open_start(), task)

    return run


def rollout(
    settings: RolloutSettings,
    tokens: Tokens,
    stop_ids: list[int],
    max_length: int,
    decode: Callable[[list[int]], str],
    dialect: Callable[[str], str],
    backend: Backend,
    task: Task,
) -> Output:
    """One answer to each prompt, none to one that leaves the student no room; `task.view` is the number of the answer.

    Args:
        stop_ids: tokens that end an answer.
        max_length: tokens of the longest sequence, EOS included, that teacher and student take.
        dialect: what SQL on a database is written in.
    """
    ingest = usable(task.tables["ingest"])
    prompts, db_ids = lists(ingest, "prompt_ids"), ingest.column("db_id").to_pylist()
    asked = [row for row in by_shared_prefix(prompts) if len(prompts[row]) < max_length]
    task.advance(len(prompts) - len(asked))
    sampling = sampling_of(settings, "rollout", task.view)
    given = [prompts[row].tolist() for row in asked]
    answers = backend.generate(given, settings.max_new_tokens, stop_ids, sampling, task.advance)
    by_row = dict(zip(asked, answers, strict=True))
    whole = [by_row.get(row, []) for row in range(len(prompts))]
    kept = [_kept(answer, max_length - len(prompt) - 1, tokens) for prompt, answer in zip(prompts, whole, strict=True)]
    texts = [decode(answer) for answer in kept]
    parsed = [parses(text, dialect(db_id)) for text, db_id in zip(texts, db_ids, strict=True)]
    room = [min(settings.max_new_tokens, max_length - len(prompt)) for prompt in prompts]
    ends = [len(new) == len(old) < most for new, old, most in zip(kept, whole, room, strict=True)]
    columns: dict[str, Any] = {
        "example_id": ingest.column("example_id").to_pylist(),
        "db_id": db_ids,
        "view": [task.view] * len(kept),
        "masked": [[]] * len(kept),
        "imperfect_ids": kept,
        "imperfect_sql": texts,
        "parses": parsed,
        "ends": ends,
    }
    gold = lists(ingest, "gold_ids")
    same = sum(np.array_equal(answer, sql) for answer, sql in zip(kept, gold, strict=True))
    counts = {"in": len(kept), "out": len(kept), "tokens": sum(map(len, kept)), "gold": same}
    return Output(arrow_table(schema_of("rollout"), columns), counts | {"parse": sum(parsed), "ended": sum(ends)})


def _kept(answer: list[int], room: int, tokens: Tokens) -> list[int]:
    """The answer up to where there is no room for it and its end, or to an id that is no token (padding of an output layer)."""
    strange = next((place for place, token in enumerate(answer) if token >= tokens.vocab_size), len(answer))
    return answer[: min(strange, max(room, 0))]
