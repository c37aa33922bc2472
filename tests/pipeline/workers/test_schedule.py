"""What can be made when: every shard once, none before its inputs, and none waiting for a stage to end."""

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kidcore.store.graph import Cell, Grid
from kidcore.store.store import Shard, Store
from pipeline.workers.schedule import Schedule, name_of
from tests.pipeline.workers.light import MODELS, grid_in


def schedule_of(grid: Grid, found: list[Cell] | None = None) -> Schedule:
    return Schedule(grid, lambda stage: MODELS.get(stage, ""), ([] if found is None else found).append)


def made(cell: Cell) -> Shard:
    return Shard(cell.stage, cell.key, 3, hashlib.md5(repr(name_of(cell)).encode()).hexdigest())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30), parts=st.integers(1, 5))
def test_every_shard_is_made_once_whatever_the_order_and_whoever_dies(tmp_path: Path, seed: int, parts: int) -> None:
    grid, rng = grid_in(Store(tmp_path / "none"), parts), random.Random(seed)
    schedule = schedule_of(grid)
    underway: list[Cell] = []
    finished: list[tuple[str, int, int]] = []
    while not schedule.is_finished:
        if (cell := schedule.take(rng.choice(["", "teacher"]))) is not None:
            assert cell.state == "stale"
            underway.append(cell)
        if underway and rng.random() < 0.5:
            cell = underway.pop(rng.randrange(len(underway)))
            if rng.random() < 0.2:
                schedule.put_back(cell)
            else:
                assert schedule.finish(cell, made(cell))
                finished.append(name_of(cell))
    assert len(finished) == len(set(finished)) == parts * (1 + 1 + 2 + 2)
    assert not underway
    assert schedule.take("") is schedule.take("teacher") is None


def test_a_part_goes_on_while_others_have_not_begun(tmp_path: Path) -> None:
    schedule = schedule_of(grid_in(Store(tmp_path / "none")))
    for model in ("", "teacher"):
        cell = schedule.take(model)
        assert cell is not None
        assert cell.part == 0
        schedule.finish(cell, made(cell))
    assert schedule.ready("") == 3 + 2, "the other parts' first shards, and the third stage of this one"
    cell = schedule.take("")
    assert cell is not None
    assert (cell.stage, cell.part) == ("third", 0), "earlier parts first"


def test_while_it_is_held_only_the_first_stage_begins(tmp_path: Path) -> None:
    schedule = schedule_of(grid_in(Store(tmp_path / "none"), parts=2))
    schedule.is_held = True
    for _ in range(2):
        cell = schedule.take("")
        assert cell is not None
        schedule.finish(cell, made(cell))
    assert schedule.models() == []
    assert schedule.ready("teacher") == 0
    schedule.is_held = False
    assert schedule.models() == ["teacher"]


def test_what_is_there_is_found_and_not_made(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    grid = grid_in(store, parts=1)
    cells = []
    before = schedule_of(grid)
    for model in ("", "teacher", "", "", "teacher", "teacher"):
        cell = before.take(model)
        assert cell is not None
        before.finish(cell, made(cell))
        cells.append(cell)
    found: list[Cell] = []
    after = schedule_of(grid, found)
    assert after.is_finished
    assert {name_of(cell) for cell in found} == {name_of(cell) for cell in cells}


def test_a_shard_made_from_what_was_dropped_meanwhile_is_not_the_one_that_is_wanted(tmp_path: Path) -> None:
    grid = grid_in(Store(tmp_path / "none"), parts=1)
    first = schedule_of(grid)
    source = first.take("")
    assert source is not None
    damaged = made(source)
    first.finish(source, damaged)
    old = first.take("teacher")
    assert old is not None
    grid.drop(damaged)
    again = Schedule(grid, lambda stage: MODELS.get(stage, ""), lambda _cell: None, underway=[name_of(old)])
    anew = again.take("")
    assert anew is not None
    again.finish(anew, Shard("first", anew.key, 3, "0" * 32))
    assert again.take("teacher") is None, "it is being made"
    assert not again.finish(old, made(old))
    cell = again.take("teacher")
    assert cell is not None
    assert cell.key != old.key


@pytest.mark.parametrize("model", ["", "teacher"])
def test_nothing_is_ready_in_an_empty_grid(tmp_path: Path, model: str) -> None:
    schedule = schedule_of(grid_in(Store(tmp_path / "none"), parts=0))
    assert schedule.is_finished
    assert schedule.take(model) is None
