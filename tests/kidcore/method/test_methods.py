"""The table of methods: what each reads and looks at."""

from typing import Any, get_args

import pytest

from kidcore.config.train_settings import Method, TrainSettings
from kidcore.errors import KidpipeError
from kidcore.method.methods import (
    METHODS,
    built_until,
    gold_share,
    gold_weight,
    is_mixture,
    looks_at,
    require_objective,
    settings_used,
    stages_read,
)
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


@pytest.mark.parametrize(
    ("changes", "weight"),
    [
        ({"method": "sft"}, 1.0),
        ({"method": "seqkd", "mle_weight": 0.2}, 1.0),
        ({"method": "fkd", "mle_weight": 0.2}, 0.2),
        ({"method": "kid", "mle_weight": 0.0, "on_policy_mle": 0.7}, 0.0),
        ({"method": "kid-online", "mle_weight": 0.3}, 0.3),
        ({"method": "gkd", "mle_weight": 0.2}, 0.0),
        ({"method": "gkd", "on_policy_mle": 0.7}, 0.7),
        ({"method": "imitkd", "on_policy_mle": 0.1}, 0.1),
        ({"method": "opd", "on_policy_mle": 0.4}, 0.4),
    ],
)
def test_the_weight_of_gold_is_that_of_the_methods_own_setting(changes: dict[str, Any], weight: float) -> None:
    assert gold_weight(TrainSettings.model_validate(changes)) == weight


@pytest.mark.parametrize(
    ("changes", "share", "mixes"),
    [
        ({"method": "kid"}, 1.0, True),
        ({"method": "kid", "gold_share": 0.0}, 0.0, False),
        ({"method": "kid", "gold_share": 0.25}, 0.25, True),
        ({"method": "kid", "gold_share": 0.0, "imperfect_share": 0.9}, 0.0, True),
        ({"method": "kid", "gold_share": 0.0, "view_choice": "only_plausible"}, 0.0, True),
        ({"method": "kid", "gold_share": 0.0, "view_choice": "prefer_plausible"}, 0.0, False),
        ({"method": "opd"}, 0.0, False),
        ({"method": "opd", "gold_share": 1.0}, 1.0, True),
        ({"method": "kid-online"}, 0.0, False),
        ({"method": "gkd", "gold_share": 0.5}, 0.5, True),
    ],
)
def test_how_many_examples_teach_gold_too(changes: dict[str, Any], share: float, mixes: bool) -> None:
    settings = TrainSettings.model_validate(changes)
    assert gold_share(settings) == share
    assert is_mixture(settings) is mixes


@pytest.mark.parametrize(
    ("changes", "until"),
    [
        ({"method": "sft"}, "ingest"),
        ({"method": "fkd"}, "gold_score"),
        ({"method": "kid"}, "score"),
        ({"method": "kid", "rollout_share": 0.5}, "score,rollout_score"),
        ({"method": "kid", "view_choice": "only_plausible"}, "score"),
        ({"method": "seqkd"}, "generate"),
        ({"method": "seqkd", "answers": "correct"}, "generate_outcome"),
        ({"method": "opd", "answers": "correct"}, "rollout_score"),
        ({"method": "gkd", "rollout_share": 0.5}, "ingest"),
    ],
)
def test_how_far_a_build_has_to_go(changes: dict[str, Any], until: str) -> None:
    assert built_until(TrainSettings.model_validate(changes)) == until


def test_who_makes_what_during_training() -> None:
    assert {name for name, traits in METHODS.items() if traits.is_online} == {"imitkd", "gkd", "kid-online"}
    assert {name for name, traits in METHODS.items() if traits.fills_holes} == {"kid-online"}
    assert METHODS["kid-online"].online_sections == ("teacher", "score", "mask", "predict", "verify")
    assert METHODS["gkd"].online_sections == METHODS["imitkd"].online_sections == ("teacher", "score")
    assert {METHODS[name].online_sections for name in ("sft", "kid", "opd", "seqkd")} == {()}
    assert all(traits.divergence is None for name, traits in METHODS.items() if name in ("sft", "seqkd"))
    assert all(traits.divergence for name, traits in METHODS.items() if name not in ("sft", "seqkd"))


def test_every_setting_of_the_table_is_one_and_belongs_to_somebody() -> None:
    for method, traits in METHODS.items():
        for name in traits.settings:
            assert looks_at(method, name)
            assert name in TrainSettings.model_fields
    assert not looks_at("sft", "kd_weight")
    assert not looks_at("seqkd", "divergence")
    assert looks_at("sft", "a setting that no method owns")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_would_learn_nothing_is_refused(method: Method) -> None:
    weightless = TrainSettings(method=method, kd_weight=0, mle_weight=0, on_policy_mle=0)
    if METHODS[method].divergence is None:
        require_objective(weightless)
        return
    with pytest.raises(KidpipeError, match="nothing to learn"):
        require_objective(weightless)
    for name in ("kd_weight", METHODS[method].mle):
        require_objective(weightless.model_copy(update={name: 0.5}))
