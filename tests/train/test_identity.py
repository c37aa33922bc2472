"""The change matrix of runs over the trainer's own settings: what makes another run of which method."""

from typing import Any, get_args

import pytest

from kidcore.config.settings import SettingKind
from kidcore.config.train_settings import Method, TrainSettings
from kidcore.method.methods import METHODS
from train.identity import run_identity

STORED = {"fkd", "rkd", "f-distill", "kid", "kid-online"}
# The settings that not all methods look at, as their descriptions say, and the methods that do.
LOOKED_AT: dict[str, set[str]] = {
    "mle_weight": STORED,
    "on_policy_mle": {"imitkd", "gkd", "opd"},
    "kd_weight": set(METHODS) - {"sft", "seqkd"},
    "divergence": set(METHODS) - {"sft", "seqkd"},
    "divergence_parameter": set(METHODS) - {"sft", "seqkd"},
    "views_per_step": {"kid", "kid-online", "opd"},
    "imperfect_share": {"kid", "kid-online", "gkd", "opd"},
    "gold_share": {"kid", "kid-online", "imitkd", "gkd", "opd"},
    "rollout_share": {"kid"},
    "oracle_end": {"imitkd"},
    "rollout_tokens": {"imitkd", "gkd"},
    "rollout_temperature": {"imitkd", "gkd"},
    "rollout_backend": {"imitkd", "gkd"},
    "gold_divergence": {"kid", "kid-online", "imitkd", "gkd", "opd"},
    "position_weight": set(METHODS) - {"sft", "seqkd"},
    "position_gain": set(METHODS) - {"sft", "seqkd"},
    "view_choice": {"kid", "opd"},
    "answers": {"seqkd"},
}
OTHER: dict[str, Any] = {
    "method": None,
    "divergence": "skew_forward_kl",
    "gold_divergence": "skew_forward_kl",
    "position_weight": "entropy",
    "view_choice": "only_plausible",
    "answers": "correct",
    "pack_tokens": 2048,
    "report_to": ("tensorboard",),
    "gold_share": 0.25,
    "rollout_backend": "vllm",
    "dtype": "bfloat16",
    "lora_targets": "q_proj",
    "packing": "none",
    "parallel": "ddp",
    "student": "another/student",
    "lora_rank": 4,
    "divergence_parameter": 0.25,
    "holdout": 0.1,
    "learning_rate": 1e-3,
    "warmup_steps": 5,
}


def changed(name: str) -> Any:
    default = TrainSettings.model_fields[name].default
    if name in OTHER:
        return OTHER[name]
    if isinstance(default, bool):
        return not default
    return default + 1 if isinstance(default, int) else default / 2 or 0.25


@pytest.mark.parametrize("method", get_args(Method))
def test_which_settings_make_another_run(method: Method) -> None:
    before = run_identity(TrainSettings(method=method), "content", "student")
    for name in TrainSettings.model_fields:
        if name == "method":
            continue
        now = run_identity(TrainSettings.model_validate({"method": method, name: changed(name)}), "content", "student")
        is_identity = TrainSettings.kind_of(name) is SettingKind.IDENTITY
        assert (now != before) == (is_identity and method in LOOKED_AT.get(name, METHODS)), name


def test_what_else_makes_another_run() -> None:
    settings = TrainSettings()
    base = run_identity(settings, "content", "student")
    assert run_identity(settings, "other", "student") != base
    assert run_identity(settings, "content", "other") != base
    assert run_identity(settings, "content", "student", {"teacher": "a"}) != base
