"""What reruns after a change, on the real stages with a real (small) teacher: 3 parts, 2 views."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kidcore.config.config_load import sections
from kidcore.config.settings import SettingKind
from kidcore.errors import KidpipeError
from kidcore.store.graph import Grid
from kidcore.store.manifest import read_manifest
from kidcore.store.plan import StagePlan, make_plan
from kidpipe.commands.session import open_session
from kidpipe.commands.train import prepare_run
from pipeline.context import open_context
from pipeline.serial import SerialRunner
from pipeline.stages import stages
from tests.conftest import configure
from tests.pipeline.running import made, run_build, store_of

ALL = ("ingest", "gold_score", "mask", "predict", "rewrite", "outcome", "score")
# Each identity setting of the data stages: another value, and the stages that are stale or follow.
CHANGES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "ingest.template": (str(Path(__file__).parents[1] / "fixtures" / "short_template"), ALL),
    "ingest.sample_rows": (1, ("ingest",)),
    "ingest.column_values": (5, ("ingest",)),
    "ingest.system": ("Be exact.", ALL),
    "ingest.chat": (None, ()),
    "ingest.chat_arguments": (None, ()),
    "ingest.chat_date": ("2025-01-01", ("ingest",)),
    "ingest.fit": ("tables", ("ingest",)),
    "ingest.max_prompt_tokens": (200, ALL),
    "ingest.max_sql_tokens": (20, ALL),
    "ingest.shard_rows": (30, ALL),
    "ingest.check_gold": (False, ("ingest",)),
    "ingest.max_steps": (50_000_000, ("ingest",)),
    "teacher.dtype": ("bfloat16", ("gold_score", "predict", "rewrite", "outcome", "score")),
    "mask.strategy": ("schema", ("mask", "predict", "rewrite", "outcome", "score")),
    "mask.ratio": (0.4, ("mask", "predict", "rewrite", "outcome", "score")),
    "mask.seed": (1, ("mask", "predict", "rewrite", "outcome", "score")),
    "predict.predictor": (None, ()),
    "predict.fill": ("argmax", ("predict", "rewrite", "outcome", "score")),
    "predict.propose": ("argmax_wrong", ("predict",)),  # counts with fill = verify alone: tests/pipeline/test_verify.py
    "predict.temperature": (2.0, ("predict",)),
    "predict.mask_token": ("<unk>", ("predict", "rewrite", "outcome", "score")),
    "predict.top_k": (5, ("predict", "rewrite")),
    "predict.seed": (1, ("predict",)),
    "predict.dtype": (None, ()),  # a student's: a test of its own
    "outcome.execute": (False, ()),  # leaves the stage out: a test of its own
    "outcome.max_steps": (50_000_000, ("outcome",)),
    "score.top_k": (8, ("gold_score", "score")),
    "score.tail_mass": (0.01, ("gold_score", "score")),
}

QUICK = {"ingest.system", "teacher.dtype", "mask.ratio", "predict.temperature", "score.top_k"}
"""One of each kind, for the fast tests: all together take a minute."""

STORED, KID, ONLINE = {"fkd", "kid"}, {"kid", "kid-online"}, {"gkd", "kid-online"}
EVERY = {"sft"} | STORED | ONLINE
# And the methods whose runs are other runs then. sft stands for what reads gold alone, fkd for what reads the gold's scores.
# A setting that gives the same bytes here makes no other run, but what a method does online follows its settings.
RETRAINED: dict[str, set[str]] = {
    "ingest.template": EVERY,
    "ingest.system": EVERY,
    "ingest.max_prompt_tokens": EVERY,
    "ingest.max_sql_tokens": EVERY,
    "ingest.shard_rows": EVERY,
    "teacher.dtype": STORED | ONLINE,
    "mask.strategy": KID,
    "mask.ratio": KID,
    "mask.seed": KID,
    "predict.fill": KID,
    "predict.propose": {"kid-online"},
    "predict.temperature": {"kid-online"},
    "predict.mask_token": KID,
    "predict.top_k": {"kid-online"},
    "predict.seed": {"kid-online"},
    "score.top_k": STORED | ONLINE,
    "score.tail_mass": ONLINE,
}


@pytest.fixture(scope="module")
def built(world: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings of a finished build."""
    folder = tmp_path_factory.mktemp("matrix")
    settings: dict[str, object] = {
        "data.path": str(world),
        "teacher.model": str(tiny_model),
        "train.student": str(tiny_model),
        "engine.backend": "transformers",
        "ingest.shard_rows": 20,
        "ingest.max_prompt_tokens": 400,
        "ingest.max_sql_tokens": 100,
        "score.top_k": 16,
        "store.path": str(folder / "artifacts"),
    }
    assert made(run_build(configure(settings))) == {
        "ingest": 3, "gold_score": 3, "mask": 6, "predict": 6, "rewrite": 6, "outcome": 6, "score": 6,
    }  # fmt: skip
    return settings


@pytest.fixture
def copy(built: dict[str, object], tmp_path: Path) -> dict[str, object]:
    """The finished build in a store of its own, to be changed."""
    shutil.copytree(str(built["store.path"]), tmp_path / "artifacts")
    return built | {"store.path": str(tmp_path / "artifacts")}


@pytest.fixture(scope="module")
def names(built: dict[str, object]) -> dict[str, str]:
    """The runs that the finished build allows."""
    return run_names(built)


def planned(settings: dict[str, object], **changes: object) -> dict[str, StagePlan]:
    config = configure(settings, **changes)
    context, store = open_context(config), store_of(config)
    try:
        return {p.stage: p for p in make_plan(Grid(stages(context), context.parts, store), store, read_manifest(store))}
    finally:
        context.close()


def test_the_table_names_every_identity_setting_of_a_data_stage() -> None:
    expected = {
        f"{name}.{field}"
        for name, model in sections().items()
        for field in model.model_fields
        if name in ("ingest", "teacher", "mask", "predict", "outcome", "score") and model.kind_of(field) is SettingKind.IDENTITY
    }
    assert set(CHANGES) == expected


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow(seconds=2))
        for name, (value, _) in CHANGES.items()
        if value is not None and name != "outcome.execute"
    ],
)
def test_an_identity_setting_reruns_its_stage_and_what_changes_with_it(
    copy: dict[str, object], names: dict[str, str], name: str
) -> None:
    """`sample_rows` and its like give the same bytes here, and then nothing follows: early cutoff."""
    value, expected = CHANGES[name]
    changed = {name.replace(".", "__"): value}
    plan = planned(copy, **changed)
    first = expected[0]
    assert plan[first].stale > 0
    assert any(reason.startswith(f"{name} ") for stage in expected for reason in plan[stage].reasons), plan
    assert set(made(run_build(configure(copy, **changed)))) == set(expected)
    assert made(run_build(configure(copy, **changed))) == {}
    runs = run_names(copy | {name: value})
    assert made(run_build(configure(copy))) == {}, "reverting costs nothing"
    assert {method for method in runs if runs[method] != names[method]} == RETRAINED.get(name, set()) & runs.keys()


def run_names(settings: dict[str, object]) -> dict[str, str]:
    """What the run of each method is called that the latest build allows; equal names are equal runs."""
    names = {}
    for method in sorted(EVERY):
        if method == "kid-online" and settings.get("mask.strategy") == "schema":
            continue  # refused: it knows tokens only
        session = open_session(None, [], settings | {"train.method": method}, use_file=False)
        names[method] = prepare_run(session).name
    return names


def test_every_runtime_and_training_setting_reruns_nothing(copy: dict[str, object]) -> None:
    others: dict[str, object] = {"engine__tensor_parallel": 2, "engine__gpu_memory": 0.5, "engine__device": "cpu"}
    for name, model in sections().items():
        for field, info in model.model_fields.items():
            is_runtime = model.kind_of(field) is SettingKind.RUNTIME and name != "store"
            is_training = name in ("train", "eval") and model.kind_of(field) is SettingKind.IDENTITY
            if (is_runtime or is_training) and isinstance(info.default, (int, float)) and f"{name}__{field}" not in others:
                value = not info.default if isinstance(info.default, bool) else info.default / 2 + 1
                others[f"{name}__{field}"] = int(value) if isinstance(info.default, int) else value
    others |= {"train__learning_rate": 0.5, "engine__kv_cache_mib": 64, "engine__batch_tokens": 128}
    valid = {k: v for k, v in others.items() if _is_valid(copy, k, v)}
    assert {"engine__batch_tokens", "engine__prefix_cache", "train__learning_rate", "sandbox__workers"} <= valid.keys()
    for name, value in valid.items():
        assert not any(stage.is_stale for stage in planned(copy, **{name: value}).values()), name
    assert made(run_build(configure(copy, engine__batch_tokens=128, engine__prefix_cache=False))) == {}


def _is_valid(settings: dict[str, object], name: str, value: object) -> bool:
    from kidcore.errors import KidpipeError

    try:
        configure(settings, **{name: value})
    except KidpipeError:
        return False
    return True


def test_without_outcomes_nothing_else_changes(copy: dict[str, object]) -> None:
    result = run_build(configure(copy, outcome__execute=False))
    assert made(result) == {}
    assert "outcome" not in result.manifest.stages


def test_moving_the_data_reruns_nothing(copy: dict[str, object], world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "elsewhere")
    assert made(run_build(configure(copy, data__path=str(tmp_path / "elsewhere")))) == {}


def other_model(model: Path, folder: Path) -> Path:
    """The same tokenizer with other weights."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(model, folder)
    network = AutoModelForCausalLM.from_pretrained(folder)
    network.model.norm.weight.data.mul_(1.5)
    network.model.layers[0].mlp.up_proj.weight.data.mul_(-2.0)
    network.save_pretrained(folder)
    return folder


def test_a_student_may_fill_the_holes_and_the_gold_score_stays(copy: dict[str, object], tiny_model: Path, tmp_path: Path) -> None:
    student = other_model(tiny_model, tmp_path / "student")
    changed = {"predict__predictor": "student", "predict__student": str(student)}
    assert planned(copy, **changed)["predict"].is_stale
    result = run_build(configure(copy, **changed))
    assert {"predict", "score"} <= set(made(result)) <= {"predict", "rewrite", "outcome", "score"}
    assert made(run_build(configure(copy))) == {}


def test_each_model_runs_in_a_precision_of_its_own(copy: dict[str, object], tiny_model: Path, tmp_path: Path) -> None:
    student = other_model(tiny_model, tmp_path / "student")
    filled = copy | {"predict.predictor": "student", "predict.student": str(student)}
    run_build(configure(filled))
    by_teacher = planned(filled, teacher__dtype="bfloat16")
    assert {name for name, plan in by_teacher.items() if plan.is_stale} == {"gold_score", "score"}
    by_student = planned(filled, predict__dtype="bfloat16")
    assert {name for name, plan in by_student.items() if plan.stale} == {"predict"}
    assert by_student["predict"].reasons == ("predict.dtype unset -> bfloat16",)
    config = configure(filled, predict__dtype="bfloat16")
    context = open_context(config)
    try:
        dtypes = [str(opened()._model.dtype) for opened in (context.open_predictor, context.open_teacher)]  # type: ignore[attr-defined]
    finally:
        context.close()
    assert dtypes == ["torch.bfloat16", "torch.float32"]
    with pytest.raises(KidpipeError, match=r"predict.dtype is that of a student"):
        open_context(configure(copy, predict__dtype="bfloat16"))


def test_the_sandbox_of_a_build_obeys_its_own_section(copy: dict[str, object]) -> None:
    context = open_context(configure(copy, sandbox__workers=3, sandbox__memory_mib=512, sandbox__gold_timeout_s=7))
    try:
        pool = context.pool(1000)
        assert (pool._num_workers, pool.limits.memory_mib, pool.limits.timeout_s) == (3, 512, 7.0)
    finally:
        context.close()


def test_another_teacher_reruns_its_stages(copy: dict[str, object], tiny_model: Path, tmp_path: Path) -> None:
    other = other_model(tiny_model, tmp_path / "other")
    plan = planned(copy, teacher__model=str(other))
    assert any("teacher.weights local:" in reason for reason in plan["gold_score"].reasons)
    assert not plan["ingest"].is_stale
    assert set(made(run_build(configure(copy, teacher__model=str(other))))) >= {"gold_score", "predict", "score"}


def test_appended_examples_run_what_is_new_and_the_part_they_join(copy: dict[str, object], world: Path, tmp_path: Path) -> None:
    data = tmp_path / "grown"
    shutil.copytree(world, data)
    file = data / "train_spider.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps(rows * 3))
    changed = {"data__path": str(data)}
    plan = planned(copy, **changed)["ingest"]
    assert plan.reasons[0] == f"{plan.stale} input shards are new or changed"
    assert plan.done >= 2
    result = run_build(configure(copy, **changed))
    assert made(result)["ingest"] == plan.stale
    assert made(result)["score"] == 2 * plan.stale
    assert result.reused["predict"] == 2 * plan.done


@pytest.mark.parametrize("at", [0, 35])
def test_an_inserted_example_reruns_the_part_it_is_in(copy: dict[str, object], world: Path, tmp_path: Path, at: int) -> None:
    data = tmp_path / "grown"
    shutil.copytree(world, data)
    file = data / "train_spider.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([*rows[:at], rows[0] | {"question": "and one more?"}, *rows[at:]]))
    assert made(run_build(configure(copy, data__path=str(data)), until="gold_score")) == {"ingest": 1, "gold_score": 1}


def test_another_view_runs_only_that_view(copy: dict[str, object]) -> None:
    plan = planned(copy, mask__views=3)
    assert plan["mask"].reasons == ("mask.views 2 -> 3",)
    assert made(run_build(configure(copy, mask__views=3))) == {"mask": 3, "predict": 3, "rewrite": 3, "outcome": 3, "score": 3}
    assert made(run_build(configure(copy, mask__views=2))) == {}


def test_a_changed_database_row_does_not_rerun_the_teacher(copy: dict[str, object], world: Path, tmp_path: Path) -> None:
    """Prompts hold the schema only, golds still execute: ingest and outcome look again, and nothing else."""
    import sqlite3

    data = tmp_path / "touched"
    shutil.copytree(world, data)
    for path in data.glob("database/*/*.sqlite"):
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 7")
        connection.close()
    result = run_build(configure(copy, data__path=str(data)))
    assert set(made(result)) == {"ingest", "outcome"}


def test_a_version_bump_that_rewrites_the_same_bytes_stops_there(copy: dict[str, object]) -> None:
    config = configure(copy)
    context = open_context(config)
    graph = [replace(s, version=s.version + 1) if s.name == "mask" else s for s in stages(context)]
    store = store_of(config)
    plan = {p.stage: p for p in make_plan(Grid(graph, context.parts, store), store, read_manifest(store))}
    assert plan["mask"].reasons == ("mask version 1 -> 2",)
    runner = SerialRunner(Grid(graph, context.parts, store), store, False)
    runner.run()
    context.close()
    assert {stage: count for stage, count in runner.ledger.ran.items() if count} == {"mask": 6}


def test_estimates_come_from_earlier_shards(copy: dict[str, object]) -> None:
    plan = planned(copy, mask__ratio=0.7)
    assert plan["predict"].estimate_s is not None
    assert plan["predict"].estimate_s > 0
    assert plan["predict"].rows == 120
