"""Kinds of settings, canonical hashes, and the fingerprints that later versions must keep."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kidcore.config.config import Config, EngineSettings, IngestSettings
from kidcore.config.config_load import sections
from kidcore.config.settings import SettingKind, canonical_json, fingerprint
from kidcore.config.stage_settings import GenerateSettings, MaskSettings, PredictSettings, ScoreSettings
from kidcore.config.train_settings import TrainSettings

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_every_setting_has_one_kind_a_description_and_a_valid_default() -> None:
    for name, model in sections().items():
        for field, info in model.model_fields.items():
            assert isinstance(model.kind_of(field), SettingKind), f"{name}.{field}"
            assert info.description, f"{name}.{field}"
        model.model_validate(model().model_dump())


def test_settings_at_their_default_leave_no_trace() -> None:
    assert MaskSettings(ratio=0.2).identity() == {}
    assert MaskSettings(ratio=0.3, views=7).identity() == {"ratio": 0.3}


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_what_has_no_text_to_be_hashed_is_no_value_of_an_identity_setting(number: float) -> None:
    """`train.clip = inf` was taken, and was a traceback when the run was to be named."""
    with pytest.raises(ValidationError, match=r"finite|greater"):
        TrainSettings(clip=number)
    with pytest.raises(ValidationError, match="finite"):
        IngestSettings(chat_arguments={"share": number})
    assert EngineSettings(server_patience_s=math.inf).server_patience_s == math.inf


# Runs are named after the numbers behind `auto`; these were the defaults before it.
_NUMBERS: dict[str, Any] = {"learning_rate": 2e-4, "warmup_steps": 0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (MaskSettings().identity(), "44136fa355b3678a1146ad16f7e8649e"),
        (MaskSettings(strategy="hard", ratio=0.3).identity(), "97aa2834b3fcd1e8c0d55c0dfedd775c"),
        (IngestSettings(template="ddl").identity(), "36a5a05a34920d949072fd1765eacc3d"),
        (PredictSettings(fill="sample", temperature=0.7).identity(), "51fcc2f6a2165f97fef86f00335e2b80"),
        (ScoreSettings(top_k=8).identity(), "39a3aece61268dbd8e2132ab7139f527"),
        (GenerateSettings(max_new_tokens=64, temperature=0.8).identity(), "48b771e4a20f70dfeb9d642677d57b97"),
        (TrainSettings(**_NUMBERS).identity(), "44136fa355b3678a1146ad16f7e8649e"),
        (TrainSettings(**_NUMBERS, method="rkd", kd_weight=0.5).identity(), "a066623402890098d9c569cbde0eefef"),
        (
            TrainSettings(**_NUMBERS, method="gkd", imperfect_share=0.5, rollout_temperature=0.0).identity(),
            "84c0a5be18a4bc04976490d3a4b7b0d0",
        ),
    ],
)
def test_golden_fingerprints(value: object, expected: str) -> None:
    """A change here means that users' stored shards are thrown away: it must be meant."""
    assert fingerprint(value) == expected


@given(VALUES)
def test_equal_values_have_equal_text(value: object) -> None:
    assert canonical_json(value) == canonical_json(value)


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_order_of_keys_does_not_count(value: dict[str, int]) -> None:
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {1, 2}}, math.nan, math.inf, b"bytes"])
def test_what_has_no_canonical_form_raises(value: object) -> None:
    with pytest.raises(TypeError):
        fingerprint(value)


def test_different_types_have_different_hashes() -> None:
    assert len({fingerprint(value) for value in (1, 1.0, "1", True, [1], None)}) == 6


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().mask.ratio = 0.5  # type: ignore[misc]


def test_a_later_setting_is_in_manifests_only_away_from_its_default() -> None:
    """Manifests of builds that don't use it stay the same to the byte, and so do the runs trained on them."""
    assert "dtype" not in PredictSettings().all_identity()
    assert PredictSettings(dtype="bfloat16").all_identity()["dtype"] == "bfloat16"
    assert PredictSettings().all_identity()["temperature"] == 1.0
