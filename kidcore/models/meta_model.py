"""A model folder and the headers of its weights in; a refusal out when a loader would miss, misshape or ignore some of them.

Judged by transformers itself on the meta device, so that renamed, tied and optional weights count as it counts them. Loads torch.
"""

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging as transformers_logging

from kidcore.errors import KidpipeError, first_line
from kidcore.models.weights import StoredTensor, weight_files

_LOG = logging.getLogger(__name__)
_LAYER = re.compile(r"\.(\d+)\.")


def hold_against_model(folder: Path, tensors: dict[str, StoredTensor] | None) -> None:
    """Compare names and shapes; a model that cannot be made here (its own code, quantised) is left to its loader."""
    config_json = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config_json.get("quantization_config") or config_json.get("auto_map"):
        _LOG.debug("names of weights are not checked in %s: quantised, or a model with code of its own", folder)
        return
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever values a configuration's constructor objects to
        if config_json.get("model_type") in CONFIG_MAPPING:
            raise KidpipeError(
                f"config.json contradicts itself: {first_line(error)}",
                where=str(folder),
                fix="put the config.json of these weights beside them: download or copy it again",
            ) from error
        _LOG.debug("names of weights are not checked in %s: %s", folder, error)
        return
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # whatever a configuration makes a model's constructor raise
        _LOG.debug("names of weights are not checked in %s: %s", folder, error)
        return
    _refuse_codes(folder, model, tensors or {})
    state = _meta_state(folder, tensors)
    try:
        found = _loading_report(model, state)
    except Exception as error:  # transformers' loader is not a public interface
        _LOG.debug("names of weights are not checked in %s: %s", folder, error)
        return
    _judge(folder, model, found)


def _refuse_codes(folder: Path, model: Any, tensors: dict[str, StoredTensor]) -> None:
    """Refuse what a quantisation stored where config.json names none: its codes would be taken for the weights themselves."""
    floating = {name for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    # Eight bits may be the weights as they are, but not where scales lie beside them.
    kinds = ("I", "U", "F8", "F4") if any("scale" in name for name in tensors) else ("I", "U")
    codes = sorted(name for name in floating & tensors.keys() if tensors[name].dtype.startswith(kinds))
    if codes:
        raise KidpipeError(
            f"{len(codes)} weights are stored as {tensors[codes[0]].dtype}, and config.json names no quantisation: "
            f"{_some(codes)}",
            where=str(folder),
            fix="put the config.json of these weights beside them, or name the model in 16 or 32 bits",
        )


def _meta_state(folder: Path, tensors: dict[str, StoredTensor] | None) -> dict[str, Any]:
    if tensors is not None:
        # A number of any type stands for itself here: only shapes are compared.
        return {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()}
    state: dict[str, Any] = {}
    for path in weight_files(folder):
        try:
            state |= torch.load(path, map_location="meta", weights_only=True)
        except Exception as error:  # the unpickler raises nearly anything on damaged bytes
            raise KidpipeError(
                f"the weights cannot be read: {first_line(error)}",
                where=str(path),
                fix="download or copy the model again, with all of its files",
            ) from error
    return state


def _loading_report(model: Any, state: dict[str, Any]) -> dict[str, Any]:
    """transformers' own account of missing, unexpected and mismatched weights."""
    load = LoadStateDictConfig(
        device_map={"": torch.device("meta")},
        ignore_mismatched_sizes=True,
        weight_mapping=get_model_conversion_mapping(model),
    )
    info, _ = type(model)._load_pretrained_model(model, dict(state), None, load)
    model.mark_tied_weights_as_initialized(info)
    model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(info)
    report: dict[str, Any] = info.to_dict()
    return report


def _judge(folder: Path, model: Any, found: dict[str, Any]) -> None:
    where = ", ".join(path.name for path in weight_files(folder)[:2])
    if missing := sorted(found["missing_keys"]):
        raise KidpipeError(
            f"the weights lack {len(missing)} of {len(model.state_dict())} tensors that config.json asks for: {_some(missing)}",
            where=f"{folder} ({where})",
            fix="download or copy the model again, with its own config.json: training would begin with random numbers there",
        )
    if wrong := sorted(found["mismatched_keys"]):
        name, stored, asked = wrong[0]
        raise KidpipeError(
            f"{len(wrong)} weights have another shape than config.json asks for: {name} is {_size(stored)}, not {_size(asked)}",
            where=f"{folder} ({where})",
            fix="put the config.json of these weights beside them, or the weights of this config.json",
        )
    # Beside weights of the same module: a bias that this configuration has none of, an adapter that was never merged.
    leaves = ((name, part) for name, part in model.named_modules() if next(part.children(), None) is None)
    homes = {name for name, part in leaves if next(part.parameters(), None) is not None}
    if lost := sorted(name for name in found["unexpected_keys"] if not homes.isdisjoint(_modules(name))):
        raise KidpipeError(
            f"the weights hold {len(lost)} tensors that the model would run without: {_some(lost)}",
            where=f"{folder} ({where})",
            fix="put the config.json of these weights beside them, and merge adapters (peft: merge_and_unload) before saving",
        )
    known = {_LAYER.sub(".N.", name) for name in model.state_dict()}
    # Parts that the language model leaves out (a vision tower) are no mistake; layers of a kind that it has are.
    if spare := sorted(name for name in found["unexpected_keys"] if _LAYER.search(name) and _LAYER.sub(".N.", name) in known):
        raise KidpipeError(
            f"the weights hold {len(spare)} tensors of layers that config.json does not have: {_some(spare)}",
            where=f"{folder} ({where})",
            fix="put the config.json of these weights beside them: the model would run without those layers",
        )


def _modules(name: str) -> set[str]:
    """The modules that a tensor of this name is within."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def _some(names: Iterable[str]) -> str:
    chosen = list(names)
    return ", ".join(chosen[:3]) + (", ..." if len(chosen) > 3 else "")


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))
