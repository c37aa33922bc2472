"""A model folder and the name of an engine in; a refusal out where the engine knows no such kind of model.

Looks at the configuration alone, so that a build can ask before its first expensive second. Loads transformers.
"""

import importlib
from pathlib import Path

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from kidcore.errors import KidpipeError, first_line


def require_known(folder: Path, engine: str) -> None:
    """Raises KidpipeError where `engine`, transformers or vllm, cannot make the model in `folder`."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever values a configuration's constructor objects to
        fault = first_line(error)
    else:
        if engine == "vllm" or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            return  # vLLM also runs models that transformers has under another heading, and says itself which
        fault = f"a model of type {config.model_type} is no causal language model"
    if engine == "vllm" and _is_known_to_vllm(folder):
        return
    raise KidpipeError(
        f"{engine} cannot load the model: {fault}",
        where=str(folder),
        fix=f"name a causal language model that {engine} knows, or upgrade {engine}",
    )


def _is_known_to_vllm(folder: Path) -> bool:
    """vLLM has configurations of its own for models that transformers does not know. It takes seconds to load: only then."""
    try:
        importlib.import_module("vllm.transformers_utils.config").get_config(str(folder), trust_remote_code=False)
    except Exception:  # as above
        return False
    return True
