"""Questions as token ids in, or nothing at all; steps of training examples out, for benchmarks that need no teacher.

Imperfect views change `rewritten` of the SQL tokens; the teacher's distributions are drawn with the sizes that stored ones
have. What is drawn decides neither times nor token counts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def draw_rows(databases: int, questions: int, seed: int = 0, head: int = 2, alphabet: int = 2000) -> list[Row]:
    """Random tokens with the lengths of Spider's training questions under the compact template, where there is no data.

    A schema has 390 tokens on average, a question 18, its SQL 26; all prompts begin with the same `head` tokens.
    """
    rng = np.random.default_rng(seed)

    def text(mean: float, spread: float, least: int, most: int) -> list[int]:
        length = int(np.clip(rng.lognormal(np.log(mean) - spread**2 / 2, spread), least, most))
        return rng.integers(4, alphabet, size=length).tolist()  # type: ignore[no-any-return]

    rows = []
    for database in range(databases):
        schema = [*range(4, 4 + head), *text(390 - head, 0.6, 60, 1500)]
        rows += [
            Row(f"d{database}q{number}", f"d{database}", "", schema, text(18, 0.35, 6, 60), text(26, 0.5, 6, 120))
            for number in range(questions)
        ]
    return rows


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
