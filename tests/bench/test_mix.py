"""Examples for the benchmarks hold the same questions whatever a method stores of them."""

from pathlib import Path

import numpy as np
import pytest

from bench.examples import Row, make_steps
from bench.mix import read_rows

VOCAB_SIZE = 600


@pytest.fixture(scope="module")
def rows(world: Path) -> list[Row]:
    return read_rows(world, VOCAB_SIZE)[0]


def test_rows_hold_the_prompt_as_text_too(world: Path) -> None:
    rows, tokenizer = read_rows(world, VOCAB_SIZE)
    for row in rows[:5]:
        assert tokenizer.decode([*row.schema, *row.question]) == row.prompt


def test_views_change_some_sql_tokens_and_nothing_else(rows: list[Row]) -> None:
    shape = {"batch_size": 8, "group_size": 4, "vocab_size": VOCAB_SIZE}
    gold = make_steps(rows, views=0, rewritten=0.0, **shape)
    kid = make_steps(rows, views=2, rewritten=0.5, **shape)
    assert [[x.example_id for x in step] for step in gold] == [[x.example_id for x in step] for step in kid]
    for plain, imperfect in zip(gold[0], kid[0], strict=True):
        first, *views = imperfect.branches
        assert np.array_equal(first.tokens, plain.branches[0].tokens)
        assert first.learn_gold
        assert first.teacher is None
        for view in views:
            assert np.array_equal(view.tokens[: view.start], first.tokens[: first.start])
            assert len(view.tokens) == len(first.tokens)
            assert view.teacher is not None
            assert len(view.teacher.count) == view.num_supervised
    assert any(not np.array_equal(view.tokens, x.branches[0].tokens) for x in kid[0] for view in x.branches[1:])


def test_gold_is_scored_and_views_are_not_where_it_is_asked(rows: list[Row]) -> None:
    shape = {"batch_size": 8, "group_size": 4, "vocab_size": VOCAB_SIZE, "rewritten": 0.2}
    steps = make_steps(rows, views=1, score_gold=True, score_views=False, num_steps=2, **shape)
    assert len(steps) == 2
    assert all(x.branches[0].teacher is not None and x.branches[1].teacher is None for step in steps for x in step)
