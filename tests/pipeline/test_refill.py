"""Another rule for the holes fills them from stored predictions: the bytes are those of asking, and nobody is asked."""

import shutil
from pathlib import Path

import pytest

from kidcore.store.graph import Grid
from kidcore.store.manifest import read_manifest
from kidcore.store.plan import make_plan
from pipeline.context import Context, open_context
from pipeline.stages import stages
from pipeline.workers.jobs import Done, Job
from tests.pipeline.running import files, in_shards_of_20, made, run_build, store_of
from tests.pipeline.workers.light import LightBodies
from tests.pipeline.workers.test_worker import surroundings, worker

_ = surroundings


@pytest.fixture(scope="module")
def filled(world: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose holes were filled by the default rule."""
    folder = tmp_path_factory.mktemp("filled") / "artifacts"
    run_build(in_shards_of_20(world, tiny_model, folder), until="rewrite")
    return folder


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "artifacts"))


@pytest.fixture
def ask_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_self: Context) -> None:
        raise AssertionError("a model was asked")

    monkeypatch.setattr(Context, "open_predictor", never)


@pytest.mark.parametrize(
    "rule",
    [
        {"predict__fill": "argmax"},
        {"predict__fill": "sample", "predict__temperature": 1.7, "predict__seed": 3},
        {"predict__fill": "argmax_wrong"},
    ],
    ids=lambda rule: rule["predict__fill"],
)
def test_the_rows_are_those_of_asking(
    world: Path, tiny_model: Path, store: Path, tmp_path: Path, request: pytest.FixtureRequest, rule: dict[str, object]
) -> None:
    asked = in_shards_of_20(world, tiny_model, tmp_path / "anew", **rule)
    wanted = run_build(asked, until="rewrite").manifest
    request.getfixturevalue("ask_nobody")
    config = in_shards_of_20(world, tiny_model, store, **rule)
    result = run_build(config, until="rewrite")
    assert made(result)["predict"] == 6
    assert result.manifest.counts == wanted.counts
    # A file's name holds its key and the digest of its rows.
    for stage in ("predict", "rewrite"):
        assert files(result.manifest, stage) == files(wanted, stage)
    assert made(run_build(config, until="rewrite")) == {}


@pytest.mark.usefixtures("ask_nobody")
def test_the_plan_says_so(world: Path, tiny_model: Path, store: Path) -> None:
    config = in_shards_of_20(world, tiny_model, store, predict__fill="argmax")
    context, opened = open_context(config, need_teacher=True), store_of(config)
    plans = {p.stage: p for p in make_plan(Grid(stages(context), context.parts, opened), opened, read_manifest(opened))}
    assert (plans["predict"].cut, plans["predict"].asks) == (6, False)
    assert plans["predict"].reasons[-1] == "6 filled anew from stored predictions, without the predictor"


def test_other_predictions_are_asked_for(world: Path, tiny_model: Path, store: Path) -> None:
    for changes in ({"predict__top_k": 5}, {"mask__ratio": 0.4}, {"teacher__dtype": "bfloat16"}):
        config = in_shards_of_20(world, tiny_model, store, predict__fill="argmax", **changes)
        context = open_context(config, need_teacher=True)
        grid = Grid(stages(context), context.parts, store_of(config))
        assert grid.asks(next(stage for stage in grid.stages if stage.name == "predict"))


def test_a_damaged_source_is_set_aside_and_the_model_asked(world: Path, tiny_model: Path, store: Path) -> None:
    victim = sorted((store / "predict").glob("*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:500])
    config = in_shards_of_20(world, tiny_model, store, predict__fill="argmax")
    assert made(run_build(config, until="rewrite"))["predict"] == 6
    assert victim.with_name(victim.name + ".broken").exists()


@pytest.mark.usefixtures("surroundings")
def test_with_several_engines_the_workers_fill_anew_without_one(world: Path, tiny_model: Path, store: Path) -> None:
    config = in_shards_of_20(world, tiny_model, store, predict__fill="argmax")
    context = open_context(config, need_teacher=True)
    grid = Grid(stages(context), context.parts, store_of(config))
    predict = next(stage for stage in grid.stages if stage.name == "predict")
    hands = worker(store_of(config), LightBodies())
    for cell in grid.cells(predict):
        part = grid.parts[cell.part]
        inputs = grid.finished_inputs(predict, part, cell.view)
        line = {"stage": cell.stage, "key": cell.key, "rows": part.rows, "settings": "none"}
        source = grid.source(predict, part, cell.view)
        done = hands.make(Job(cell, part, inputs, line, {"settings": predict.resolved}, (), source))
        assert isinstance(done, Done), done
    assert "predict" not in made(run_build(config, until="rewrite"))
