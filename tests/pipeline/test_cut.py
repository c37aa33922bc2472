"""Fewer ids a position are cut from what is stored; the teacher is asked for more of them alone."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from kidcore.config.config import Config
from kidcore.store.arrow import lists
from kidcore.store.graph import Grid
from kidcore.store.makers import makers_of
from kidcore.store.manifest import Manifest, read_manifest
from kidcore.store.plan import StagePlan, make_plan
from kidcore.store.store import Shard
from pipeline.context import Context, open_context
from pipeline.stages import stages
from pipeline.workers.jobs import Done, Job
from pipeline.workers.schedule import Schedule
from tests.pipeline.running import files, in_shards_of_20, made, run_build, store_of
from tests.pipeline.workers.light import LightBodies
from tests.pipeline.workers.test_worker import surroundings, worker

_ = surroundings

SCORED = ("gold_score", "score")


@pytest.fixture(scope="module")
def wide(world: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was built with 16 ids a position, in shards of 20 rows."""
    folder = tmp_path_factory.mktemp("wide") / "artifacts"
    run_build(_config(world, tiny_model, folder, 16))
    return folder


@pytest.fixture
def store(wide: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(wide, tmp_path / "artifacts"))


def _config(world: Path, tiny_model: Path, folder: Path, top_k: int, **changes: object) -> Config:
    return in_shards_of_20(world, tiny_model, folder, score__top_k=top_k, **changes)


@pytest.fixture
def no_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_self: Context) -> None:
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr(Context, "open_teacher", never)


def _plans(config: Config) -> dict[str, StagePlan]:
    context, store = open_context(config, need_teacher=True), store_of(config)
    return {plan.stage: plan for plan in make_plan(Grid(stages(context), context.parts, store), store, read_manifest(store))}


@pytest.mark.usefixtures("no_teacher")
def test_lowering_cuts_and_asks_nobody(world: Path, tiny_model: Path, store: Path) -> None:
    config = _config(world, tiny_model, store, 6)
    plans = _plans(config)
    assert {name: (plan.cut, plan.asks) for name, plan in plans.items() if plan.is_stale} == {
        "gold_score": (3, False),
        "score": (6, False),
    }
    assert plans["score"].reasons[-1] == "6 cut from shards with more ids, without the teacher"
    assert not any(plan.estimate_s for plan in plans.values())
    assert made(run_build(config)) == {"gold_score": 3, "score": 6}
    assert made(run_build(config)) == {}


def test_what_is_cut_is_what_the_teacher_would_have_said(world: Path, tiny_model: Path, store: Path, tmp_path: Path) -> None:
    cut, anew = _config(world, tiny_model, store, 6), _config(world, tiny_model, tmp_path / "anew", 6)
    found, wanted = run_build(cut).manifest, run_build(anew).manifest
    assert found.counts == wanted.counts
    for stage in SCORED:
        for mine, other in zip(_shards(found, stage), _shards(wanted, stage), strict=True):
            assert stage == "score" or mine.key == other.key, "whose key tells what gold's scores hold"
            left, right = store_of(cut).read(mine), store_of(anew).read(other)
            assert left.schema == right.schema
            exact = [name for name in left.column_names if name not in ("tail", "gold_logprob")]
            assert left.select(exact).equals(right.select(exact))
            np.testing.assert_allclose(*(np.concatenate(lists(table, "tail")) for table in (left, right)), rtol=2**-7, atol=2e-7)


def _shards(manifest: Manifest, stage: str) -> list[Shard]:
    return [shard for file in files(manifest, stage) if (shard := Shard.parse(stage, Path(file).name)) is not None]


@pytest.mark.usefixtures("no_teacher")
def test_a_cut_of_a_cut_is_a_cut_of_the_first_and_the_narrowest_is_taken(world: Path, tiny_model: Path, store: Path) -> None:
    run_build(_config(world, tiny_model, store, 9))
    config = _config(world, tiny_model, store, 4)
    manifest = run_build(config).manifest
    opened = store_of(config)
    shards = _shards(manifest, "score")
    for shard in shards:
        wider = Shard.parse(*opened.provenance(shard)["cut_from"].split("/"))
        assert wider is not None
        assert max(map(max, lists(opened.read(wider), "topk_count"))) == 9
    makers = set(makers_of(opened, {shard.key for shard in shards}).values())
    assert len(makers) == 1
    assert all(maker.engine is not None for maker in makers), "the numbers are an engine's"


def test_masks_that_follow_confidence_come_out_the_same_and_what_follows_them_is_cut(
    world: Path, tiny_model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "artifacts"
    run_build(_config(world, tiny_model, folder, 16, mask__strategy="hard"))
    request.getfixturevalue("no_teacher")
    assert made(run_build(_config(world, tiny_model, folder, 6, mask__strategy="hard"))) == {
        "gold_score": 3,
        "mask": 6,
        "score": 6,
    }


def test_more_ids_other_settings_and_a_lost_source_ask_the_teacher(world: Path, tiny_model: Path, store: Path) -> None:
    for changes in ({"top_k": 17}, {"top_k": 6, "score__tail_mass": 0.01}, {"top_k": 6, "teacher__dtype": "bfloat16"}):
        plans = _plans(_config(world, tiny_model, store, **changes))  # type: ignore[arg-type]
        assert plans["gold_score"].cut == 0
        assert plans["gold_score"].asks
    for file in (store / "gold_score").glob("*.parquet"):
        file.unlink()
    assert _plans(_config(world, tiny_model, store, 6))["score"].cut == 0, "whose gold is gone: its key can't be known"


def test_a_damaged_source_is_set_aside_and_the_teacher_asked(world: Path, tiny_model: Path, store: Path) -> None:
    victim = sorted((store / "score").glob("*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:500])
    config = _config(world, tiny_model, store, 6)
    assert made(run_build(config)) == {"gold_score": 3, "score": 6}
    said = [store_of(config).provenance(shard) for shard in _shards(run_build(config).manifest, "score")]
    assert ["cut_from" in one for one in said].count(False) == 1
    assert victim.with_name(victim.name + ".broken").exists()


@pytest.mark.usefixtures("surroundings")
def test_with_several_engines_it_is_cut_by_the_workers_that_have_none(world: Path, tiny_model: Path, store: Path) -> None:
    config = _config(world, tiny_model, store, 6)
    context = open_context(config, need_teacher=True)
    grid = Grid(stages(context), context.parts, store_of(config))
    schedule = Schedule(grid, lambda stage: "teacher" if stage in SCORED else "", lambda _cell: None)
    by_name = {stage.name: stage for stage in grid.stages}
    hands, cut = worker(store_of(config), LightBodies()), 0
    while not schedule.is_finished:
        assert schedule.models() == []
        cell = schedule.take("")
        assert cell is not None
        part, stage = grid.parts[cell.part], by_name[cell.stage]
        line = {"stage": cell.stage, "key": cell.key, "rows": part.rows, "settings": "none"}
        said = {"settings": stage.resolved}
        done = hands.make(Job(cell, part, {}, line, said, (), grid.source(stage, part, cell.view)))
        assert isinstance(done, Done), done
        assert schedule.finish(cell, done.shard)
        cut += 1
    assert cut == 9
    assert made(run_build(config)) == {}
