"""What would run, because of what, and for how long: told from names, the last manifest and the log alone."""

from pathlib import Path
from typing import Any

import pytest

from kidcore.store.graph import Grid, Stage
from kidcore.store.log import SHARDS, append
from kidcore.store.manifest import Facts, Manifest, PartRecord, StageRecord
from kidcore.store.plan import StagePlan, changed_settings, engine_start_s, make_plan, seconds_per_row
from kidcore.store.store import Store
from tests.kidcore.store.grids import graph, make_all, parts, put, stage


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def manifest_of(grid: Grid) -> Manifest:
    """Of a finished grid, without opening a shard."""
    files = {
        part.index: {
            one.name: tuple(cell.shard.file for cell in grid.cells(one) if cell.part == part.index) for one in grid.stages
        }
        for part in grid.parts
    }
    stages = {one.name: StageRecord(one.version, one.resolved, one.views) for one in grid.stages}
    records = tuple(PartRecord(part.index, part.rows, part.content, files[part.index]) for part in grid.parts)
    return Manifest.of(Facts(0, 1, "t", 100), stages, {}, records)


def built(store: Store, stages: list[Stage], *sources: str) -> Manifest:
    grid = Grid(stages, parts(*sources), store)
    make_all(grid, store)
    return manifest_of(grid)


def reasons(plans: list[StagePlan]) -> dict[str, tuple[str, ...]]:
    return {plan.stage: plan.reasons for plan in plans if plan.reasons}


def log(store: Store, **record: Any) -> None:
    append(store.root / SHARDS, {"stage": "mask", "key": "k", "rows": 10, "seconds": 1.0, "settings": "s"} | record)


def test_before_the_first_build_all_runs(store: Store) -> None:
    plans = make_plan(Grid(graph(), parts("a", "b", rows=7), store), store, None)
    assert [(plan.stage, plan.done, plan.stale, plan.follows, plan.rows) for plan in plans] == [
        ("ingest", 0, 2, 0, 14),
        ("mask", 0, 0, 4, 28),
        ("rewrite", 0, 0, 4, 28),
    ]
    assert reasons(plans) == {
        "ingest": ("never built",),
        "mask": ("follows ingest",),
        "rewrite": ("follows ingest", "follows mask"),
    }
    assert all(plan.is_stale and plan.estimate_s is None and plan.estimate_bytes is None for plan in plans)


def test_after_a_build_nothing_runs(store: Store) -> None:
    manifest = built(store, graph(), "a", "b")
    plans = make_plan(Grid(graph(), parts("a", "b"), store), store, manifest)
    assert not any(plan.is_stale or plan.reasons or plan.rows for plan in plans)
    assert [plan.done for plan in plans] == [2, 4, 4]
    assert plans[0].as_json()["stage"] == "ingest"


def test_a_build_that_was_stopped_says_how_far_it_came(store: Store) -> None:
    grid = Grid(graph(), parts("a", "b", "c"), store)
    grid.add(put(store, next(iter(grid.cells(grid.stages[0])))))
    plans = make_plan(Grid(graph(), parts("a", "b", "c"), store), store, None)
    assert plans[0].reasons == ("unfinished: 1 of 3 shards are there",)


def test_a_changed_setting_is_the_root_and_what_reads_it_follows(store: Store) -> None:
    manifest = built(store, graph(0.2), "a")
    plans = make_plan(Grid(graph(0.3), parts("a"), store), store, manifest)
    assert reasons(plans) == {"mask": ("mask.ratio 0.2 -> 0.3",), "rewrite": ("follows mask",)}
    assert [plan.is_at_most for plan in plans] == [False, False, True], "the same masks may come out"


def test_several_changes_are_all_named_and_stand_before_what_is_followed(store: Store) -> None:
    manifest = built(store, graph(0.2), "a")
    now = graph(0.3, views=3, ingest={"ingest__template": "ddl"}, mask={"views": 3, "mask__ratio": 0.3, "version": 2})
    found = reasons(make_plan(Grid(now, parts("a"), store), store, manifest))
    assert found["ingest"] == ("ingest.template unset -> ddl",)
    assert found["mask"] == ("mask.ratio 0.2 -> 0.3", "mask version 1 -> 2", "mask.views 2 -> 3")
    assert found["rewrite"] == ("mask.views 2 -> 3",)


def test_fewer_views_are_no_reason(store: Store) -> None:
    manifest = built(store, graph(views=3), "a")
    assert reasons(make_plan(Grid(graph(views=1), parts("a"), store), store, manifest)) == {}
    changed = make_plan(Grid(graph(0.3, views=1), parts("a"), store), store, manifest)
    assert reasons(changed) == {"mask": ("mask.ratio 0.2 -> 0.3",), "rewrite": ("follows mask",)}


def test_a_shard_that_went_away_is_missing(store: Store) -> None:
    manifest = built(store, graph(), "a", "b")
    (store.root / manifest.parts[1].files["ingest"][0]).unlink()
    plans = make_plan(Grid(graph(), parts("a", "b"), store), store, manifest)
    assert reasons(plans)["ingest"] == ("1 of its shards are missing",)
    assert (plans[0].done, plans[0].stale, plans[1].follows) == (1, 1, 2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda _name: None, "2 input shards are new or changed"),
        (lambda _name: "", "2 input shards are new or changed"),
        (lambda name: f"{name} 7", "2 input shards are new or changed: source 7"),
    ],
)
def test_questions_that_changed_are_counted_and_named_where_they_are_known(store: Store, changed: Any, said: str) -> None:
    manifest = built(store, graph(), "a", "b")
    plans = make_plan(Grid(graph(), parts("a", "c", "d"), store), store, manifest, changed)
    assert reasons(plans)["ingest"] == (said,)


@pytest.mark.parametrize(
    ("which", "said"),
    [
        (None, ("1 shards read databases that changed",)),
        ("pets", ("1 shards read databases that changed: pets",)),
        ("", ("1 of its shards are missing",)),
    ],
)
def test_databases_that_changed_are_named_and_others_that_are_read_are_no_change(
    store: Store, which: str | None, said: tuple[str, ...]
) -> None:
    manifest = built(store, graph(), "a")
    (part,) = parts("a")
    part.content["databases"] = "other"  # type: ignore[index]
    plans = make_plan(Grid(graph(), [part], store), store, manifest, lambda _name: which)
    assert reasons(plans)["ingest"] == said


def test_a_stage_that_the_last_build_did_not_have_was_never_built(store: Store) -> None:
    manifest = built(store, graph()[:2], "a")
    assert reasons(make_plan(Grid(graph(), parts("a"), store), store, manifest)) == {"rewrite": ("never built",)}


def test_settings_that_came_with_a_later_kidpipe_are_no_change_at_their_default() -> None:
    assert changed_settings({"a": 1}, {"a": 1, "new": 3}, {}) == []
    assert changed_settings({"a": 1}, {"a": 1, "new": 3}, {"new": 3}) == ["new unset -> 3"]
    assert changed_settings({"a": 1}, {"a": 1, "new": 3}) == ["new unset -> 3"]
    assert changed_settings({"gone": 2, "b": None}, {"a": True}) == ["a unset -> True", "gone 2 -> unset"]


def test_the_cost_of_a_row_is_the_mean_of_the_log_without_engine_starts(store: Store) -> None:
    log(store, rows=10, seconds=3.0, engine_start_s=1.0)
    log(store, rows=30, seconds=2.0)
    log(store, stage="score", rows=0, seconds=5.0)
    log(store, stage="rewrite", rows=4, seconds=1.0, engine_start_s=9.0)
    log(store, stage="ingest", rows=4, seconds=2, engine_start_s="long")
    assert seconds_per_row(store) == {"mask": pytest.approx(0.1), "rewrite": 0.0, "ingest": 0.5}
    assert engine_start_s(store) == pytest.approx(5.0), "the mean of those that started, not of all lines"


def test_without_a_log_nothing_is_estimated(store: Store) -> None:
    assert seconds_per_row(store) == {}
    assert engine_start_s(store) is None
    log(store)
    assert engine_start_s(store) is None


def test_time_and_bytes_are_those_of_earlier_shards_times_the_rows_to_come(store: Store) -> None:
    manifest = built(store, graph(0.2), "a")
    log(store, stage="mask", rows=10, seconds=4.0)
    grid = Grid(graph(0.3), parts("a", "b", rows=5), store)
    plans = {plan.stage: plan for plan in make_plan(grid, store, manifest)}
    # Shards of 10 rows in 100 bytes; four of 5 rows each are to be made.
    assert plans["mask"].estimate_s == pytest.approx(8.0)
    assert plans["mask"].estimate_bytes == 200
    assert plans["rewrite"].estimate_s is None
    assert (plans["ingest"].rows, plans["ingest"].estimate_bytes) == (5, 50), "only what is to be made"


def test_a_stage_with_no_view_setting_needs_none() -> None:
    one = stage("ingest", reads=("source",))
    assert list(one.each_view()) == [0]
    assert list(stage("mask", views=3).each_view()) == [0, 1, 2]
