"""A model folder and the name of an engine in; a refusal out where the engine knows no such kind of model.

Looks at the configuration alone, so that a build can ask before its first expensive second. Loads transformers.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

from kidcore.errors import KidpipeError, first_line


def require_known(folder: Path, engine: str) -> None:
    """Raises KidpipeError where `engine`, transformers or vllm, cannot make the model in `folder`."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever values a configuration's constructor objects to
        fault = first_line(error)
    else:
        if engine == "vllm":
            return  # it also runs models that transformers has under another heading, and says itself which
        if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            refuse_unknown_words(config, folder)
            return
        fault = f"a model of type {config.model_type} is no causal language model"
    if engine == "vllm" and _is_known_to_vllm(folder):
        return
    raise KidpipeError(
        f"{engine} cannot load the model: {fault}",
        where=str(folder),
        fix=f"name a causal language model that {engine} knows, or upgrade {engine}",
    )


def refuse_unknown_words(config: Any, folder: Path) -> None:
    """Raises KidpipeError where transformers has no such rotation (`rope_scaling`) or activation as the configuration names.

    It takes any word into a configuration, and looks for what the word means when it makes the model.
    """
    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(config)
    except KeyError as error:
        word = error.args[0] if error.args else ""
        setting = _setting_of(word, json.loads((folder / "config.json").read_text(encoding="utf-8")))
        said = f"{setting} = {word!r}" if setting else repr(word)
        raise KidpipeError(
            f"transformers {transformers.__version__} cannot make this model: it does not know {said}",
            where=str(folder / "config.json"),
            fix="upgrade transformers, or name another model",
        ) from error
    except Exception:  # loading it says what is wrong
        return


def _setting_of(word: Any, config: dict[str, Any]) -> str:
    """Where a configuration has this word, such as rope_scaling.rope_type; empty where it has it nowhere."""
    for name, value in config.items():
        if value == word:
            return str(name)
        if isinstance(value, dict) and (inner := _setting_of(word, value)):
            return f"{name}.{inner}"
    return ""


def _is_known_to_vllm(folder: Path) -> bool:
    """vLLM has configurations of its own for models that transformers does not know. It takes seconds to load: only then."""
    try:
        importlib.import_module("vllm.transformers_utils.config").get_config(str(folder), trust_remote_code=False)
    except Exception:  # as above
        return False
    return True
