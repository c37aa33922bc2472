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
    if "score" in row.sections:

        def narrower(values: Values) -> Mapping[str, Any]:
            return settings_of(**{**sections, "score": config.score.model_copy(update={"top_k": values[WIDTH]})})[0]

        def wide_enough(used: Sequence[Values]) -> Sequence[Values]:
            numbers = [values for values in used if isinstance(values[WIDTH], int) and values[WIDTH] > config.score.top_k]
            return sorted(numbers, key=lambda values: values[WIDTH])

        return Derivation((WIDTH,), wide_enough, narrower, "cut from shards with more ids, without the teacher")
    if row.name == "predict":

        def ruled(values: Values) -> Mapping[str, Any]:
            changed = {name.removeprefix("predict."): value for name, value in values.items()}
            return settings_of(**{**sections, "predict": config.predict.model_copy(update=changed)})[0]

        return Derivation(RULE, lambda used: used, ruled, "filled anew from stored predictions, without the predictor")
    return None
