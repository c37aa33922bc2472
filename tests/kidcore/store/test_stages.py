"""The table of stages: complete, in an order that works, and what follows from a row."""

from importlib import import_module

import pytest

from kidcore.config.config import Config
from kidcore.config.config_load import sections, setting_names
from kidcore.config.stage_settings import MaskSettings, OutcomeSettings, PredictSettings
from kidcore.store.schemas import schema_of
from kidcore.store.stages import MODEL_STAGES, STAGE_TABLE, STAGES, built_by, made_from, sections_of


@pytest.mark.parametrize("name", STAGES)
def test_a_row_names_what_is_there(name: str) -> None:
    row = STAGE_TABLE[name]
    assert {"example_id", "db_id"} <= set(schema_of(name).names)
    assert callable(import_module(f"pipeline.{name}").bind)
    assert set(row.sections) <= sections().keys()
    assert {row.views, row.switch} - {""} <= set(setting_names())
    assert set(row.inputs) <= set(STAGES[: STAGES.index(name)]), "a stage reads what ran before it"
    assert ("view" in schema_of(name).names) == bool(row.views)


def test_what_a_build_runs() -> None:
    assert built_by("ingest") == ("ingest",)
    assert built_by("predict") == ("ingest", "gold_score", "mask", "predict")
    assert built_by("score") == ("ingest", "gold_score", "mask", "predict", "verify", "rewrite", "outcome", "score")
    assert built_by("generate") == ("ingest", "generate")
    assert built_by("generate_outcome") == ("ingest", "generate", "generate_outcome")
    assert built_by("rollout_score") == ("ingest", "gold_score", "rollout", "rollout_outcome", "rollout_score")
    together = (*built_by("score"), "rollout", "rollout_outcome", "rollout_score")
    assert built_by("rollout_score,score") == built_by("score,rollout_score") == together
    assert built_by("rollout") == ("ingest", "rollout", "rollout_outcome"), "statistics cost no model"
    assert {"gold_score", "predict", "verify", "score", "generate", "rollout", "rollout_score"} == MODEL_STAGES


def test_statistics_are_no_part_of_scores() -> None:
    assert made_from(["score"]) == set(built_by("score")) - {"outcome"}
    assert sections_of(["gold_score"]) == {"ingest", "teacher", "score"}
    assert sections_of(["score"]) == {"ingest", "teacher", "score", "mask", "predict", "verify"}
    assert sections_of(["generate"]) == {"ingest", "teacher", "generate"}


def test_the_configuration_decides_views_inputs_and_what_is_left_out() -> None:
    mask, outcome = STAGE_TABLE["mask"], STAGE_TABLE["outcome"]
    assert mask.inputs_of(Config()) == ("ingest",)
    assert mask.inputs_of(Config(mask=MaskSettings(strategy="hard"))) == ("ingest", "gold_score")
    rewrite, verified = STAGE_TABLE["rewrite"], Config(predict=PredictSettings(fill="verify"))
    assert rewrite.inputs_of(Config()) == ("ingest", "mask", "predict")
    assert rewrite.inputs_of(verified) == ("ingest", "mask", "verify")
    assert [STAGE_TABLE["verify"].is_wanted(config) for config in (Config(), verified)] == [False, True]
    assert mask.num_views(Config(mask=MaskSettings(views=5))) == 5
    assert STAGE_TABLE["ingest"].num_views(Config()) == 0
    assert outcome.is_wanted(Config())
    assert not outcome.is_wanted(Config(outcome=OutcomeSettings(execute=False)))
