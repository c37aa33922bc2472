"""A Spider folder in; training examples with real schemas, questions and SQL out, for benchmarks that need no teacher.

The tokenizer is trained on the spot. Imperfect views change `rewritten` of the SQL tokens; the teacher's distributions
are drawn with the sizes that stored ones have. What is drawn decides neither times nor token counts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kidcore.config.config import DataSettings, IngestSettings
from kidcore.models.prompts import PromptBuilder
from kidcore.models.templates.template import load_template, write_schema
from kidcore.sql.datasets import read
from kidcore.sql.schema_text import read_schema
from kidpipe.demo.models import train_tokenizer
from train.data.examples import Branch, TeacherTopK, TrainingExample
from train.data.sampler import group_order


@dataclass(frozen=True)
class Row:
    """One question as token ids, and its prompt as text."""

    example_id: str
    db_id: str
    prompt: str
    schema: list[int]
    question: list[int]
    gold: list[int]


def read_rows(folder: Path, vocab_size: int, limit: int = 0) -> tuple[list[Row], Any]:
    """The training questions of a Spider folder under the compact template, and the tokenizer made for them."""
    dataset = read(DataSettings(path=str(folder), limit=limit), "train")
    template = load_template("compact")
    db_ids = sorted({e.db_id for e in dataset.examples})
    schemas = {x: write_schema(read_schema(dataset.database(x), x)) for x in db_ids}
    texts = [*schemas.values(), *(f"{e.question}\n{e.gold_sql}" for e in dataset.examples)]
    tokenizer = train_tokenizer(texts, vocab_size)
    builder = PromptBuilder.of(IngestSettings(), tokenizer)
    rows = [
        Row(
            e.example_id,
            e.db_id,
            schemas[e.db_id] + asked,
            builder.schema_ids(schemas[e.db_id]),
            builder.question_ids(asked),
            builder.encoder.ids(e.gold_sql),
        )
        for e in dataset.examples
        for asked in [template.question(e.question, e.evidence, "sqlite")]
    ]
    return rows, tokenizer


def make_steps(
    rows: list[Row],
    *,
    batch_size: int,
    group_size: int,
    views: int,
    rewritten: float,
    vocab_size: int,
    score_gold: bool = False,
    score_views: bool = True,
    num_steps: int = 0,
) -> list[list[TrainingExample]]:
    """The first steps of an epoch in the trainer's own order, or all that are full.

    Imperfect branches have the teacher's distributions unless `score_views` is false, gold ones with `score_gold`.
    """
    rng = np.random.default_rng(0)
    by_id = {row.example_id: row for row in rows}
    order = group_order(sorted((row.example_id, row.db_id) for row in rows), group_size, seed=0, epoch=0)
    order = order[: num_steps * batch_size or len(order)]
    examples = [_example(by_id[x], rng, views, rewritten, vocab_size, score_gold, score_views) for x in order]
    return [examples[start : start + batch_size] for start in range(0, len(examples) - batch_size + 1, batch_size)]


def _example(
    row: Row, rng: np.random.Generator, views: int, rewritten: float, vocab_size: int, score_gold: bool, score_views: bool
) -> TrainingExample:
    prompt = [*row.schema, *row.question]
    teacher = _teacher(rng, len(row.gold) + 1, vocab_size) if score_gold else None
    branches = [Branch(np.array(prompt + row.gold, np.int32), len(prompt), 1, True, teacher)]
    for _ in range(views):
        sql = np.array(row.gold, np.int32)
        changed = rng.random(len(sql)) < rewritten
        sql[changed] = rng.integers(4, vocab_size, size=int(changed.sum()))
        tokens = np.concatenate([np.array(prompt, np.int32), sql])
        teacher = _teacher(rng, len(sql) + 1, vocab_size) if score_views else None
        branches.append(Branch(tokens, len(prompt), 1, False, teacher))
    return TrainingExample(row.example_id, row.db_id, tuple(branches))


def _teacher(rng: np.random.Generator, length: int, vocab_size: int) -> TeacherTopK:
    """Peaked distributions: a few ids at most positions, up to 64 at some."""
    count: NDArray[np.int16] = np.minimum(rng.geometric(0.15, size=length), 64).astype(np.int16)
    ids = np.concatenate([rng.choice(vocab_size, size=int(k), replace=False) for k in count]).astype(np.int32)
    logprobs = np.concatenate([np.log(np.full(int(k), 0.999 / k)) for k in count]).astype(np.float16)
    return TeacherTopK(count, ids, logprobs, np.full(length, 0.001, np.float32))
