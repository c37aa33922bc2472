"""Parts move only near a change: one example more or less makes three at most anew, wherever it stands."""

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.config.digests import FileDigests
from kidcore.sql.datasets import DataSet, Example
from kidcore.sql.example_ids import ContentNames
from pipeline.outline import Outline, split_parts
from pipeline.partitions import cuts


def parts(ids: Sequence[str], shard_rows: int) -> list[tuple[str, ...]]:
    ends = [0, *cuts(ids, shard_rows), len(ids)]
    return [tuple(ids[start:end]) for start, end in pairwise(ends)]


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32), st.integers(0, 400), st.integers(1, 40), st.integers(0, 400))
def test_one_example_more_or_less_makes_at_most_three_parts_anew(seed: int, rows: int, shard_rows: int, at: int) -> None:
    rng = random.Random(seed)
    ids = [str(rng.random()) for _ in range(rows)]
    more = [*ids[:at], "one more", *ids[at:]]
    assert len(set(parts(more, shard_rows)) - set(parts(ids, shard_rows))) <= 3
    assert len(set(parts(ids, shard_rows)) - set(parts(more, shard_rows))) <= 3


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(1, 40))
def test_every_example_is_in_one_part_of_at_least_half_the_size(seed: int, rows: int, shard_rows: int) -> None:
    rng = random.Random(seed)
    ids = [str(rng.random()) for _ in range(rows)]
    found = parts(ids, shard_rows)
    assert [example_id for part in found for example_id in part] == ids
    assert all(len(part) >= shard_rows // 2 for part in found) or len(found) == 1
    assert all(found)


def test_parts_have_the_size_asked_for_in_the_mean() -> None:
    for shard_rows in (1, 2, 7, 100):
        sizes = [len(part) for part in parts([str(n) for n in range(40_000)], shard_rows)]
        assert 0.9 * shard_rows < sum(sizes) / len(sizes) < 1.1 * shard_rows
        assert max(sizes) <= 5 * shard_rows


def test_cuts_are_the_same_in_every_version() -> None:
    assert cuts([str(n) for n in range(100)], 20) == [22, 38, 58, 80]


def examples(questions: Sequence[int]) -> list[Example]:
    rows = [(f"db{q % 7}", f"{q}?", "SELECT 1") for q in questions]
    names = ContentNames("train")
    return [Example(names.of(row), *row) for row in rows]


@pytest.mark.parametrize("at", [0, 4_321, 9_999])
@pytest.mark.parametrize("shard_rows", [64, 512])
def test_of_ten_thousand_examples_one_inserted_deleted_or_changed(tmp_path: Path, at: int, shard_rows: int) -> None:
    def sources(questions: Sequence[int]) -> set[str]:
        asked = examples(questions)
        found = split_parts(DataSet(asked, tmp_path), Outline.of(asked, shard_rows), FileDigests(None))
        return {part.content["source"] for part in found}

    before = list(range(10_000))
    known = sources(before)
    for after in (
        [*before[:at], 77_777, *before[at:]],
        [*before[:at], *before[at + 1 :]],
        [*before[:at], 88_888, *before[at + 1 :]],
    ):
        assert len(sources(after) - known) <= 3
