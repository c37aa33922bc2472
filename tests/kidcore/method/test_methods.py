"""The table of methods: what each reads and looks at."""

from typing import get_args

import pytest

from kidcore.config.config import Method, TrainSettings
from kidcore.method.methods import METHODS, built_until, looks_at, settings_used, stages_read
from kidcore.store.stages import STAGES, built_by

READS: dict[str, tuple[str, ...]] = {
    "sft": ("ingest",),
    "seqkd": ("ingest", "generate"),
    "fkd": ("ingest", "gold_score"),
    "rkd": ("ingest", "gold_score"),
    "f-distill": ("ingest", "gold_score"),
    "imitkd": ("ingest",),
    "gkd": ("ingest",),
    "kid": ("ingest", "gold_score", "score"),
    "kid-online": ("ingest",),
    "opd": ("ingest", "rollout_score"),
}


@pytest.mark.parametrize("method", get_args(Method))
def test_what_a_method_reads(method: Method) -> None:
    traits = METHODS[method]
    assert stages_read(TrainSettings(method=method)) == READS[method]
    assert max(READS[method], key=STAGES.index) == traits.stage
    assert traits.settings <= TrainSettings.model_fields.keys()


def test_kid_on_imperfect_sql_alone_reads_no_gold_scores() -> None:
    assert stages_read(TrainSettings(gold_share=0.0)) == ("ingest", "score")
    assert stages_read(TrainSettings(gold_share=0.0, imperfect_share=0.5)) == ("ingest", "gold_score", "score")


def test_kid_reads_answers_of_the_start_only_where_it_mixes_them_in() -> None:
    assert stages_read(TrainSettings(rollout_share=0.1)) == ("ingest", "gold_score", "score", "rollout_score")
    assert stages_read(TrainSettings(method="rkd", rollout_share=0.1)) == ("ingest", "gold_score")


def test_outcomes_are_read_only_where_queries_are_chosen_by_them() -> None:
    assert stages_read(TrainSettings(gold_share=0.0, view_choice="only_plausible")) == (
        "ingest",
        "gold_score",
        "score",
        "outcome",
    )
    assert stages_read(TrainSettings(gold_share=0.0, view_choice="prefer_plausible")) == ("ingest", "score", "outcome")
    mixed = stages_read(TrainSettings(view_choice="prefer_plausible", rollout_share=0.5))
    assert mixed == ("ingest", "gold_score", "score", "rollout_score", "outcome", "rollout_outcome")
    assert stages_read(TrainSettings(method="seqkd", answers="correct")) == ("ingest", "generate", "generate_outcome")
    assert stages_read(TrainSettings(method="rkd", view_choice="only_plausible", answers="correct")) == ("ingest", "gold_score")


def test_a_build_is_told_of_all_that_a_run_reads() -> None:
    for method in METHODS:
        for changes in ({}, {"rollout_share": 0.5}, {"answers": "correct"}, {"view_choice": "only_plausible"}):
            settings = TrainSettings.model_validate({"method": method, **changes})
            assert set(stages_read(settings)) <= set(built_by(built_until(settings)))


def test_settings_of_other_methods_are_no_part_of_a_run() -> None:
    # The schedule as a run settles it: `auto` itself never gets into an identity.
    others = TrainSettings(learning_rate=2e-4, warmup_steps=0, kd_weight=0.3, views_per_step=2)
    assert settings_used(others.model_copy(update={"method": "sft"})) == {"method": "sft"}
    assert settings_used(others.model_copy(update={"method": "fkd"})) == {"method": "fkd", "kd_weight": 0.3}
    assert looks_at("imitkd", "oracle_end")
    assert not looks_at("gkd", "oracle_end")
    assert all(looks_at(method, "learning_rate") for method in METHODS)
