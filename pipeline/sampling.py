"""The settings of a stage that lets a model answer in, how one of its answers is drawn out."""

from kidcore.config.seeds import row_rng
from kidcore.config.stage_settings import GenerateSettings, RolloutSettings
from kidcore.models.backends.base import Sampling


def sampling_of(settings: GenerateSettings | RolloutSettings, purpose: str, number: int) -> Sampling | None:
    """Greedy at temperature 0; else each answer's random numbers follow from the seed, the stage, its number and its prompt."""
    if settings.temperature == 0:
        return None
    return Sampling(settings.temperature, int(row_rng(settings.seed, purpose, "", number).integers(1 << 62)))
