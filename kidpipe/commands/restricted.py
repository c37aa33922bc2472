"""A manifest in; what of it a training run reads, and the digest that the run is tied to, out."""

from dataclasses import replace

from kidcore.config.settings import fingerprint
from kidcore.config.train_settings import TrainSettings
from kidcore.method.methods import METHODS, stages_read
from kidcore.store.manifest import Manifest
from kidcore.store.stages import MODEL_STAGES, made_from


def restricted(manifest: Manifest, settings: TrainSettings) -> Manifest:
    """The manifest as if nothing had been built but what a run reads, and what that was made from."""
    stages = made_from(stages_read(settings))
    facts = manifest.facts
    if not stages & MODEL_STAGES:
        facts = replace(facts, teacher=None)
    if "score" not in stages:
        facts = replace(facts, views=None)
    return replace(manifest, facts=facts).only(stages)


def content_digest(manifest: Manifest, settings: TrainSettings) -> str:
    """What a run reads, as far as it decides its losses: what the shards that it opens hold, and the token that ends them.

    Statistics, the recipe of the shards and what else was built are no part of it. An online method also depends on
    the tokenizer, whose special tokens end the student's answers.
    """
    content: dict[str, object] = {"eos_id": manifest.facts.eos_id, "shards": manifest.digests(stages_read(settings))}
    if METHODS[settings.method].is_online:
        content["tokenizer"] = manifest.facts.tokenizer
    return fingerprint(content)
