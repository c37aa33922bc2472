"""A stage with a model in; what else decides its shards, and its other settings do not say, out.

Each is in keys only where it is not what the model's identity makes one expect, so that keys of earlier versions hold: that of a
folder stands for config.json and weights, and tokenizer_config.json beside them may name other tokens today than yesterday.
"""

from typing import Any

from kidcore.config.config import IngestSettings
from kidcore.models.sources import ModelSource
from kidcore.models.tokenizers import eos_id, is_mask_of_old, tokens_of, usual_mask
from kidcore.store.stages import StageTraits
from pipeline.context import Context


def beside_weights(context: Context, row: StageTraits, model: ModelSource) -> dict[str, dict[str, Any]]:
    """Sections of the identity of a stage in which `model` runs."""
    found = {
        "answer": {"end": _end(context, row, model)},
        "mask_token": {"id": _mask(context, row, model)},
        "sequence": {"longest": _longest(context, row, model)},
    }
    return {name: section for name, section in found.items() if None not in section.values()}


def _end(context: Context, row: StageTraits, model: ModelSource) -> int | None:
    """What stands behind every sequence that is scored, and ends answers."""
    if context.turn_end is not None:
        return context.turn_end if row.model == "teacher" else None
    end: int = context.tokenizer_files.remembered("end of sequence", eos_id)
    return None if model.brings(context.tokenizer_files.folder) or end == model.eos_id else end


def _mask(context: Context, row: StageTraits, model: ModelSource) -> int | None:
    """What stands in the holes, where no setting names it; None where it is what kidpipe 0.1.0 took, too."""
    if row.name != "predict" or context.config.predict.mask_token != "auto":
        return None
    brings, pad = model.brings(context.tokenizer_files.folder), model.pad_id

    def find(tokenizer: Any) -> int | None:
        mask = tokens_of(tokenizer, "auto").mask_id
        return None if is_mask_of_old(tokenizer) and (brings or mask == usual_mask(tokenizer, pad)) else mask

    found: int | None = context.tokenizer_files.remembered("unusual mask" if brings else f"unusual mask beside {pad}", find)
    return found


def _longest(context: Context, row: StageTraits, model: ModelSource) -> int | None:
    """Where answers are cut, or set aside as cut; None where none is, or they are where the default settings cut them."""
    if row.name not in ("generate", "rollout"):
        return None
    most, usual = getattr(context.config, row.name).max_new_tokens, IngestSettings()
    expected = min(usual.max_prompt_tokens + usual.max_sql_tokens + 1, model.max_length)
    longest = min(context.longest, model.max_length)
    # Of two settings that give the same prompts and are both left out, none cuts, or both cut at the same length.
    prompt = context.config.ingest.max_prompt_tokens
    cuts_as_expected = longest == expected and prompt <= usual.max_prompt_tokens
    cuts_none = most < longest - prompt and most < expected - min(prompt, usual.max_prompt_tokens)
    return None if cuts_as_expected or cuts_none else longest
