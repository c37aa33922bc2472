"""Rows that later stages see, the order an engine sees them in, and the way back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.config.stage_settings import GenerateSettings, RolloutSettings
from pipeline.rows import by_shared_prefix, in_row_order, usable
from pipeline.sampling import sampling_of
from tests.pipeline.bigram import ingest_table


def test_rows_with_a_reason_are_left_out_and_the_others_stay_in_order() -> None:
    table = ingest_table("a", "b", "a", reasons=[None, "prompt too long", None])
    assert usable(table).column("example_id").to_pylist() == ["train:0", "train:2"]
    assert usable(ingest_table("a", reasons=["x"])).num_rows == 0
    assert usable(ingest_table()).num_rows == 0
    assert usable(ingest_table("a", reasons=[""])).num_rows == 0, "an empty reason is one too"


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 70_000), max_size=5), max_size=8))
def test_the_order_is_one_of_the_rows_and_can_be_undone(rows: list[list[int]]) -> None:
    order = by_shared_prefix([np.array(row, np.int32) for row in rows])
    assert sorted(order) == list(range(len(rows)))
    assert in_row_order(order, [rows[row] for row in order]) == rows


def test_prompts_that_begin_alike_stand_side_by_side() -> None:
    prompts = [np.array(row, np.int32) for row in ([1, 2, 3], [7, 2], [1, 2, 4], [7, 1], [1, 2, 3])]
    order = by_shared_prefix(prompts)
    begins = [int(prompts[row][0]) for row in order]
    assert begins in ([1, 1, 1, 7, 7], [7, 7, 1, 1, 1])
    assert abs(order.index(0) - order.index(4)) == 1, "equal ones most of all"
    assert order.index(0) < order.index(4), "and those in the order they had"


@pytest.mark.parametrize("number", [1, 3])
def test_an_answer_too_few_or_too_many_is_no_row(number: int) -> None:
    with pytest.raises(ValueError, match=r"zip|shorter|longer"):
        in_row_order([1, 0], ["x"] * number)


def test_temperature_0_is_greedy_and_any_other_draws() -> None:
    assert sampling_of(GenerateSettings(), "generate", 0) is None
    drawn = sampling_of(GenerateSettings(temperature=0.7), "generate", 0)
    assert drawn is not None
    assert (drawn.temperature, drawn.number) == (0.7, 1)
    assert 0 <= drawn.seed < 1 << 62


def test_seed_stage_and_number_decide_the_draws_and_nothing_else_does() -> None:
    def seed(settings: GenerateSettings | RolloutSettings, purpose: str, number: int) -> int:
        sampling = sampling_of(settings, purpose, number)
        assert sampling is not None
        return sampling.seed

    one = GenerateSettings(temperature=0.7)
    found = {
        seed(one, "generate", 0),
        seed(one, "generate", 1),
        seed(one, "rollout", 0),
        seed(one.model_copy(update={"seed": 1}), "generate", 0),
    }
    assert len(found) == 4
    same = GenerateSettings(temperature=1.3, max_new_tokens=9, samples=4)
    assert seed(same, "generate", 0) == seed(one, "generate", 0)
    assert seed(RolloutSettings(), "rollout", 0) == seed(one, "rollout", 0)
