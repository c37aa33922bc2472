"""What a shard's key follows from, and what is done, stale or waiting because of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from kidcore.config.stage_settings import MaskSettings, PredictSettings
from kidcore.store.graph import Grid, Partition, settings_of
from kidcore.store.store import Store
from tests.kidcore.store.grids import graph, make_all, parts, put, stage, states


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def keys(grid: Grid, name: str) -> list[str]:
    return [cell.key for one in grid.stages if one.name == name for cell in grid.cells(one)]


def test_in_an_empty_store_the_first_stage_is_stale_and_the_others_follow(store: Store) -> None:
    grid = Grid(graph(), parts("a", "b"), store)
    assert states(grid) == {"ingest": ["stale"] * 2, "mask": ["follows"] * 4, "rewrite": ["follows"] * 4}
    assert not any(grid.is_finished(one) for one in grid.stages)
    assert all(key == "" for key in keys(grid, "mask")), "nobody knows yet what it will read"
    assert all(len(key) == 32 for key in keys(grid, "ingest"))


def test_no_part_is_nothing_to_do(store: Store) -> None:
    grid = Grid(graph(), [], store)
    assert states(grid) == {"ingest": [], "mask": [], "rewrite": []}
    assert all(grid.is_finished(one) for one in grid.stages)


def test_what_is_finished_is_found_again_by_another_grid(store: Store) -> None:
    first = Grid(graph(), parts("a", "b"), store)
    made = make_all(first, store)
    assert len(made) == 2 + 4 + 4
    assert len({shard.key for shard in made}) == len(made), "each part, stage and view has a key of its own"
    again = Grid(graph(), parts("a", "b"), store)
    assert states(again) == {"ingest": ["done"] * 2, "mask": ["done"] * 4, "rewrite": ["done"] * 4}
    assert [cell.shard for one in again.stages for cell in again.cells(one)] == made
    assert all(again.is_finished(one) for one in again.stages)


def test_a_grid_of_what_another_knows_is_that_of_the_store(store: Store) -> None:
    make_all(Grid(graph(), parts("a", "b"), store), store)
    known = Grid(graph()[:2], parts("a", "b"), store)
    whole = Grid(graph(), parts("a", "b"), store, known)
    assert states(whole) == states(Grid(graph(), parts("a", "b"), store))
    some = Grid(graph()[:1], parts("a", "b"), store, whole)
    assert [list(some.cells(one)) for one in some.stages] == [list(whole.cells(one)) for one in some.stages]
    some.drop(next(cell.shard for cell in some.cells(some.stages[0]) if cell.shard))
    assert all(whole.is_finished(one) for one in whole.stages), "what one forgets, another knows"


def test_parts_of_equal_content_share_their_shards_wherever_they_stand(store: Store) -> None:
    make_all(Grid(graph(), parts("a", "b"), store), store)
    moved = Grid(graph(), parts("b", "new", "a"), store)
    assert states(moved)["ingest"] == ["done", "stale", "done"]
    assert states(moved)["rewrite"] == ["done"] * 2 + ["follows"] * 2 + ["done"] * 2


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({"ingest": {"ingest__template": "ddl"}}, "ingest"),
        ({"ingest": {"version": 2}}, "ingest"),
        ({"mask": {"mask__ratio": 0.3}}, "mask"),
        ({"mask": {"mask__seed": 1}}, "mask"),
        ({"rewrite": {"version": 2}}, "rewrite"),
    ],
)
def test_a_change_makes_its_stage_stale_what_reads_it_wait_and_leaves_the_rest(
    store: Store, changes: dict[str, dict[str, object]], stale: str
) -> None:
    make_all(Grid(graph(), parts("a"), store), store)
    found = {name: set(some) for name, some in states(Grid(graph(**changes), parts("a"), store)).items()}
    order = ["ingest", "mask", "rewrite"]
    for name in order:
        expected = {"stale"} if name == stale else {"done"} if order.index(name) < order.index(stale) else {"follows"}
        assert found[name] == expected, name


def test_the_order_in_which_settings_are_named_does_not_matter(store: Store) -> None:
    one = Grid([stage("ingest", reads=("source",), a=1, b=2)], parts("x"), store)
    other = Grid([stage("ingest", reads=("source",), b=2, a=1)], parts("x"), store)
    assert keys(one, "ingest") == keys(other, "ingest")


def test_the_kind_of_a_value_counts(store: Store) -> None:
    found = {
        keys(Grid([stage("ingest", reads=("source",), a=value)], parts("x"), store), "ingest")[0] for value in (1, 1.0, "1", True)
    }
    assert len(found) == 4


def test_content_that_no_stage_reads_is_in_no_key(store: Store) -> None:
    make_all(Grid(graph(), parts("a"), store), store)
    (part,) = parts("a")
    unread = replace(part, content={**part.content, "notes": "changed"})
    assert states(Grid(graph(), [unread], store))["rewrite"] == ["done"] * 2
    for name in ("source", "databases"):
        changed = replace(part, content={**part.content, name: "changed"})
        assert states(Grid(graph(), [changed], store))["ingest"] == ["stale"]


def test_another_view_is_made_beside_those_that_are_there(store: Store) -> None:
    make_all(Grid(graph(views=2), parts("a"), store), store)
    grid = Grid(graph(views=3), parts("a"), store)
    assert states(grid) == {"ingest": ["done"], "mask": ["done"] * 2 + ["stale"], "rewrite": ["done"] * 2 + ["follows"]}
    fewer = Grid(graph(views=1), parts("a"), store)
    assert states(fewer)["rewrite"] == ["done"]


def test_an_input_that_comes_out_with_the_same_bytes_stops_the_staleness(store: Store) -> None:
    make_all(Grid(graph(), parts("a"), store), store)
    bumped = Grid(graph(mask={"version": 2}), parts("a"), store)
    before = Grid(graph(), parts("a"), store)
    for now, then in zip(bumped.cells(bumped.stages[1]), before.cells(before.stages[1]), strict=True):
        assert then.shard is not None
        bumped.add(put(store, now, digest=then.shard.digest))
    assert states(bumped)["rewrite"] == ["done"] * 2
    other = Grid(graph(mask={"version": 3}), parts("a"), store)
    for cell in other.cells(other.stages[1]):
        other.add(put(store, cell))
    assert states(other)["rewrite"] == ["stale"] * 2


def test_a_dropped_shard_is_stale_and_what_was_made_of_it_waits_until_it_is_back(store: Store) -> None:
    grid = Grid(graph(), parts("a", "b"), store)
    make_all(grid, store)
    damaged = next(iter(grid.cells(grid.stages[1]))).shard
    assert damaged is not None
    grid.drop(damaged)
    assert states(grid)["mask"] == ["stale"] + ["done"] * 3
    assert states(grid)["rewrite"] == ["follows"] + ["done"] * 3
    grid.add(damaged)
    assert states(grid)["mask"] == states(grid)["rewrite"] == ["done"] * 4
    grid.drop(replace(damaged, stage="no such stage"))


def test_a_stage_with_views_reads_the_same_view_and_one_without_the_first(store: Store) -> None:
    stages = [stage("one", reads=("source",)), stage("many", "one", views=3), stage("last", "many")]
    grid = Grid(stages, parts("a"), store)
    make_all(grid, store)
    (part,) = grid.parts
    many = [cell.shard for cell in grid.cells(stages[1])]
    assert grid.inputs(stages[2], part, 0) == [many[0]]
    assert [grid.inputs(stages[1], part, view) for view in range(3)] == [grid.inputs(stages[1], part, 0)] * 3
    copies = [stage("one", reads=("source",)), stage("many", "one", views=3), stage("copy", "many", views=3)]
    again = Grid(copies, parts("a"), store)
    assert [again.inputs(copies[2], part, view) for view in range(3)] == [[shard] for shard in many]


def test_shards_of_other_configurations_are_counted_and_a_few_are_shown(store: Store) -> None:
    for ratio in (0.1, 0.2, 0.3):
        make_all(Grid(graph(ratio), parts("a"), store), store)
    grid = Grid(graph(0.4), parts("a"), store)
    assert [grid.num_finished(one) for one in grid.stages] == [1, 6, 6]
    assert [len(grid.some_finished(grid.stages[1], most)) for most in (0, 2, 99)] == [0, 2, 6]


def test_settings_are_named_with_their_section_and_defaults_are_shown_but_in_no_key() -> None:
    identity, resolved = settings_of(mask=MaskSettings(ratio=0.4), prompt={"tokenizer": "abc"})
    assert identity == {"mask.ratio": 0.4, "prompt.tokenizer": "abc"}
    assert resolved == {"mask.ratio": 0.4, "mask.strategy": "random", "mask.seed": 0, "prompt.tokenizer": "abc"}
    assert "mask.views" not in resolved, "views have shards of their own"
    assert settings_of(predict=PredictSettings())[0] == {}
    assert settings_of() == ({}, {})


def test_a_part_without_what_a_stage_reads_is_our_own_mistake(store: Store) -> None:
    with pytest.raises(KeyError):
        Grid(graph(), [Partition(0, 1, {"source": "a"})], store)
