"""Configuration in; which finished shards a stage's can be derived from without a model, out. pipeline/derive.py does it."""

from collections.abc import Mapping, Sequence
from typing import Any

from kidcore.config.config import Config
from kidcore.store.graph import Derivation, Values, settings_of
from kidcore.store.stages import StageTraits

WIDTH = "score.top_k"
"""How many ids of a teacher's distributions are stored a position."""
RULE = ("predict.fill", "predict.temperature", "predict.seed")
"""What is put in a hole, of the predictions that are stored whatever the rule."""


def derivation_of(config: Config, row: StageTraits, sections: Mapping[str, Any]) -> Derivation | None:
    """How shards of a stage may be derived; `sections` are what its identity is made of."""

    def identity_at(values: Values) -> Mapping[str, Any]:
        others = dict(sections)
        for name, value in values.items():
            section, setting = name.split(".")
            others[section] = others[section].model_copy(update={setting: value})
        return settings_of(**others)[0]

    def wide_enough(used: Sequence[Values]) -> Sequence[Values]:
        numbers = [values for values in used if isinstance(values[WIDTH], int) and values[WIDTH] > config.score.top_k]
        return sorted(numbers, key=lambda values: values[WIDTH])

    if "score" in row.sections:
        return Derivation((WIDTH,), wide_enough, identity_at, "cut from shards with more ids, without the teacher")
    if row.name == "predict":
        return Derivation(RULE, lambda used: used, identity_at, "filled anew from stored predictions, without the predictor")
    return None
