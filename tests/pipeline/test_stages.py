"""The graph that a configuration gives: which stages there are, what each reads, and what is in its keys. Nothing is run."""

from pathlib import Path
from typing import Any

import pytest

from kidcore.config.config_load import load_config
from kidcore.config.digests import FileDigests
from kidcore.errors import KidpipeError
from kidcore.models.sources import ModelSource, Served
from kidcore.models.tokenizer_files import TokenizerFiles
from kidcore.sql.datasets import DataSet, Example
from kidcore.store.graph import Stage
from pipeline.context import Context
from pipeline.outline import Outline
from pipeline.stages import every_stage, stages

TEACHER = ModelSource("teacher", Path(), "local:teacher", 4096, 600, "", "", eos_id=1, pad_id=0)
STUDENT = ModelSource("student", Path(), "local:student", 4096, 600, "", "", eos_id=1, pad_id=0)


@pytest.fixture(scope="module")
def files(tiny_model: Path) -> TokenizerFiles:
    return TokenizerFiles(tiny_model, FileDigests(None))


@pytest.fixture
def context(files: TokenizerFiles, dataset: DataSet) -> Any:
    def make(teacher: ModelSource | None = TEACHER, max_length: int = 4096, **flags: Any) -> Context:
        named = {name.replace("__", "."): value for name, value in flags.items()}
        config = load_config(None, named, {}, use_file=False).config
        return Context(config, dataset, Outline.of(dataset.examples, 512), [], teacher, STUDENT, files, max_length, STUDENT)

    return make


def by_name(found: list[Stage]) -> dict[str, Stage]:
    return {stage.name: stage for stage in found}


def test_up_to_a_stage_there_is_what_it_needs_in_order(context: Any) -> None:
    assert [stage.name for stage in stages(context(), "ingest")] == ["ingest"]
    assert [stage.name for stage in stages(context(), "predict")] == ["ingest", "gold_score", "mask", "predict"]
    whole = ["ingest", "gold_score", "mask", "predict", "rewrite", "outcome", "score"]
    assert [stage.name for stage in stages(context())] == whole
    assert [stage.name for stage in stages(context(outcome__execute=False))] == [name for name in whole if name != "outcome"]
    verified = [stage.name for stage in stages(context(predict__fill="verify"))]
    assert verified[verified.index("predict") + 1] == "verify"
    assert [stage.name for stage in stages(context(), "generate")] == ["ingest", "generate"]


def test_without_a_teacher_there_is_only_what_needs_none(context: Any) -> None:
    assert [stage.name for stage in every_stage(context(teacher=None))] == ["ingest", "rollout", "rollout_outcome"]


@pytest.mark.parametrize(
    ("flags", "stage", "inputs"),
    [
        ({}, "mask", ("ingest",)),
        ({"mask__strategy": "hard"}, "mask", ("ingest", "gold_score")),
        ({"mask__strategy": "easy"}, "mask", ("ingest", "gold_score")),
        ({}, "rewrite", ("ingest", "mask", "predict")),
        ({"predict__fill": "verify"}, "rewrite", ("ingest", "mask", "verify")),
        ({}, "score", ("gold_score", "rewrite")),
    ],
)
def test_what_a_stage_reads_follows_from_the_settings(
    context: Any, flags: dict[str, Any], stage: str, inputs: tuple[str, ...]
) -> None:
    assert by_name(stages(context(**flags)))[stage].inputs == inputs


def test_views_are_those_of_the_setting(context: Any) -> None:
    found = by_name(every_stage(context(mask__views=5, generate__samples=3, generate__temperature=0.5, rollout__samples=2)))
    assert {name: stage.views for name, stage in found.items()} == {
        "ingest": 0,
        "gold_score": 0,
        **dict.fromkeys(["mask", "predict", "rewrite", "outcome", "score"], 5),
        **dict.fromkeys(["generate", "generate_outcome"], 3),
        **dict.fromkeys(["rollout", "rollout_outcome", "rollout_score"], 2),
    }


def identities(found: list[Stage]) -> dict[str, dict[str, Any]]:
    return {stage.name: dict(stage.identity) for stage in found}


def test_at_their_defaults_keys_hold_models_and_prompt_alone(context: Any) -> None:
    found = identities(stages(context()))
    assert set(found["ingest"]) == {"prompt.tokenizer", "prompt.template"}
    assert found["gold_score"] == found["score"] == {"teacher.weights": "local:teacher"}
    assert found["predict"] == {"predictor.weights": "local:student"} or found["predict"]["predictor.weights"]
    assert found["mask"] == found["rewrite"] == found["outcome"] == {}


@pytest.mark.parametrize(
    ("flags", "touched"),
    [
        ({"mask__ratio": 0.5}, {"mask": {"mask.ratio": 0.5}}),
        ({"predict__top_k": 5}, {"predict": {"predict.top_k": 5}}),
        ({"score__top_k": 5}, {"gold_score": {"score.top_k": 5}, "score": {"score.top_k": 5}}),
        ({"outcome__max_steps": 5000}, {"outcome": {"outcome.max_steps": 5000}}),
        (
            {"teacher__dtype": "float32"},
            {
                "gold_score": {"teacher.dtype": "float32"},
                "score": {"teacher.dtype": "float32"},
                "predict": {"predictor.dtype": "float32"},
            },
        ),
        ({"train__seed": 9, "engine__gpu_memory": 0.5, "store__path": "x", "mask__views": 4}, {}),
        ({"generate__seed": 3}, {}),
    ],
)
def test_a_setting_is_in_the_keys_of_its_own_stages_and_of_no_others(
    context: Any, flags: dict[str, Any], touched: dict[str, dict[str, Any]]
) -> None:
    before, after = identities(stages(context())), identities(stages(context(**flags)))
    assert {
        name: {k: v for k, v in after[name].items() if before[name].get(k) != v} for name in after if after[name] != before[name]
    } == touched


def test_a_student_that_fills_runs_in_its_own_precision(context: Any) -> None:
    flags = {"predict__predictor": "student", "predict__dtype": "bfloat16", "teacher__dtype": "float32"}
    found = identities(stages(context(**flags)))["predict"]
    assert found["predict.dtype"] == "bfloat16"
    assert "predictor.dtype" not in found


def test_a_model_as_long_as_the_settings_allow_changes_nothing_and_a_shorter_one_does(context: Any) -> None:
    limit = 2048 + 256 + 1
    enough, short = (identities(stages(context(max_length=length), "ingest"))["ingest"] for length in (limit, limit - 1))
    assert "prompt.max_length" not in enough
    assert short == enough | {"prompt.max_length": str(limit - 1)}


def test_the_dialects_of_a_data_set_are_in_keys_where_its_sql_is_read(files: TokenizerFiles, tmp_path: Path) -> None:
    (tmp_path / "duck").mkdir()
    (tmp_path / "duck" / "duck.duckdb").write_bytes(b"x" * 8 + b"DUCK" + b"x" * 8)
    dataset = DataSet([Example("train:0", "duck", "q", "SELECT 1")], tmp_path)
    for strategy, named in (("random", {"rewrite"}), ("schema", {"rewrite", "mask"}), ("tables", {"rewrite", "mask"})):
        config = load_config(None, {"mask.strategy": strategy}, {}, use_file=False).config
        found = identities(stages(Context(config, dataset, Outline.of(dataset.examples, 512), [], TEACHER, TEACHER, files, 4096)))
        assert {name for name, identity in found.items() if "dialects.of" in identity} == named


@pytest.mark.parametrize(
    ("template", "engine", "is_new"), [("values", "duckdb", 1), ("values", "sqlite", 0), ("ddl", "duckdb", 0)]
)
def test_only_prompts_that_show_values_of_duckdb_are_new(
    files: TokenizerFiles, tmp_path: Path, template: str, engine: str, is_new: int
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / f"d.{engine}").write_bytes(b"x" * 8 + b"DUCK" + b"x" * 8 if engine == "duckdb" else b"SQLite format 3\x00")
    dataset = DataSet([Example("train:0", "d", "q", "SELECT 1")], tmp_path)
    config = load_config(None, {"ingest.template": template}, {}, use_file=False).config
    context = Context(config, dataset, Outline.of(dataset.examples, 512), [], TEACHER, TEACHER, files, 4096)
    assert ("prompt.values" in identities(stages(context, "ingest"))["ingest"]) == is_new


@pytest.mark.parametrize(
    ("strategy", "sql", "named"),
    [("schema", "SELECT 名 FROM t", {"mask"}), ("schema", "SELECT a FROM t", set()), ("random", "SELECT 名 FROM t", set())],
)
def test_only_schema_masks_of_sql_beyond_ascii_are_new(files: TokenizerFiles, strategy: str, sql: str, named: set[str]) -> None:
    dataset = DataSet([Example("train:0", "d", "é", "SELECT 1"), Example("train:1", "d", "é", sql)], Path())
    config = load_config(None, {"mask.strategy": strategy}, {}, use_file=False).config
    found = identities(stages(Context(config, dataset, Outline.of(dataset.examples, 512), [], TEACHER, TEACHER, files, 4096)))
    assert {name for name, identity in found.items() if "mask_bytes.of" in identity} == named


@pytest.mark.parametrize("section", ["generate", "rollout"])
def test_greedy_answers_that_would_all_be_the_same_are_refused(context: Any, section: str) -> None:
    flags = {f"{section}__samples": 3, f"{section}__temperature": 0.0}
    with pytest.raises(KidpipeError, match="3 greedy answers per prompt would all be the same") as caught:
        stages(context(**flags), section)
    assert caught.value.where == f"{section}.samples"
    stages(context(**flags))
    stages(context(**flags | {f"{section}__temperature": 0.5}), section)


def test_a_served_teacher_is_asked_for_no_more_scores_than_it_gives(context: Any) -> None:
    served = Served(("http://x",), "m", (), 12, 64, 20, "1", lambda *_: None)
    teacher = ModelSource("http://x", Path(), "served:m@1", 4096, 600, "", "", served)
    with pytest.raises(KidpipeError, match="more than the 20 log-probabilities"):
        stages(context(teacher=teacher))
    stages(context(teacher=teacher), "ingest")
    stages(context(teacher=teacher), "generate")
    stages(context(teacher=teacher, score__top_k=10, predict__top_k=5))


def test_a_stage_binds_its_body_when_it_is_first_run(context: Any) -> None:
    found = by_name(stages(context(), "mask"))
    assert callable(found["mask"].run), "a plan has loaded none of its libraries"
    assert found["mask"] == by_name(stages(context(), "mask"))["mask"], "and equal ones are equal whoever runs them"
