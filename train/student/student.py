"""A model folder in, a trainable model out; a trained model in, an ordinary save_pretrained folder out."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError, first_line
from kidcore.models.backends.kinds import refuse_unknown_words
from kidcore.models.serving import tokenizer_files
from kidcore.models.trees.trunk import causal_of
from kidcore.models.weights import weight_files
from train.student.adapters import add_adapters, merged_state, save_adapter
from train.student.layout import refuse_soft_caps
from train.student.sharding import gather


def load_student(path: Path, device: torch.device, settings: TrainSettings) -> nn.Module:
    """The causal language model in folder `path`, in float32, ready to train."""
    logging.disable_progress_bar()
    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    except Exception as error:  # a model's constructor raises whatever its configuration leads it to
        raise _unloadable(path, error) from error
    _say_untied(model)
    return _prepared(model, settings).to(device).train()


def sketch_student(path: Path, settings: TrainSettings) -> nn.Module | None:
    """What `load_student` gives, without the weights: its tensors are on the meta device, where they take no memory.

    None for a model that only its own code, or its loader, can make.
    """
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        if getattr(config, "quantization_config", None) or getattr(config, "auto_map", None):
            return None
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
            return _prepared(model, settings).train()
    except KidpipeError:
        raise
    except Exception:  # loading it says what is wrong
        return None


def _say_untied(model: nn.Module) -> None:
    """Let the configuration say so where a head of its own lies beside embeddings that it calls tied.

    transformers keeps the two apart then, but other programs go by the configuration and would drop the head.
    """
    causal: Any = model
    config = causal.config
    head, embeddings = causal.get_output_embeddings(), causal.get_input_embeddings()
    if getattr(config, "tie_word_embeddings", False) and head is not None and head.weight is not embeddings.weight:
        config.tie_word_embeddings = False


def _prepared(model: nn.Module, settings: TrainSettings) -> nn.Module:
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    return add_adapters(model, settings) if settings.lora_rank else model


def check_student(path: Path, settings: TrainSettings) -> None:
    """Refuse a kind of model that is not trained as a language model, by transformers or here, or has no such layers as are to
    get adapters, before anything is made for it."""
    try:
        config = AutoConfig.from_pretrained(path)
    except Exception as error:  # whatever values a configuration's constructor objects to
        raise _unloadable(path, error) from error
    if (found := getattr(config, "quantization_config", None)) is not None:
        kind = found.get("quant_method", "unnamed") if isinstance(found, Mapping) else type(found).__name__
        raise KidpipeError(
            f"the student's weights are quantised ({kind}): they can't be trained and saved",
            where=str(path / "config.json"),
            fix="name the model that it was made from, in 16 or 32 bits, and quantise the trained student",
        )
    if not getattr(config, "auto_map", None) and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise KidpipeError(
            f"a model of type {config.model_type} is no causal language model",
            where=str(path / "config.json"),
            fix="name a student such as Qwen2.5 or Llama",
        )
    refuse_soft_caps(config)
    if not getattr(MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None), "_supports_sdpa", True):
        raise KidpipeError(
            f"models of type {config.model_type} have no attention in transformers that a student is trained with (sdpa)",
            where=str(path / "config.json"),
            fix="choose a student such as Qwen2.5 or Llama",
        )
    read = weight_files(path)
    if not any(file.name.startswith(("model", "pytorch_model")) for file in read):
        raise KidpipeError(
            f"transformers does not look for weights in a file called {read[0].name}",
            where=str(path),
            fix="call it model.safetensors",
        )
    refuse_unknown_words(config, path)
    if settings.lora_rank:
        sketch_student(path, settings)


def _unloadable(path: Path, error: Exception) -> KidpipeError:
    return KidpipeError(
        f"the student cannot be loaded: {first_line(error)}",
        where=str(path),
        fix="set train.student to a folder made by save_pretrained, with its weights and tokenizer",
    )


@torch.no_grad()
def student_state(model: nn.Module, origin: Path, *, keep: bool = True) -> dict[str, Tensor]:
    """All weights, whole, in the precision that the student was stored in; every process of a sharded run has to ask.

    Adapters are merged into the weights they stand beside: what comes out is an ordinary model.
    """
    stored = _stored_dtype(origin)
    causal: Any = causal_of(model)
    tied: dict[str, str] = getattr(causal, "all_tied_weights_keys", None) or {}
    state = {
        name: gather(x.to(stored) if x.is_floating_point() else x, keep=keep)
        for name, x in merged_state(causal)
        if name not in tied
    }
    # The same tensor under both names: save_pretrained writes it once.
    return state | {name: state[source] for name, source in tied.items()}


def save_student(
    model: nn.Module,
    state: dict[str, Tensor],
    origin: Path,
    folder: Path,
    companions: Path | None = None,
    adapter: dict[str, Tensor] | None = None,
) -> None:
    """Write the weights of `student_state` and the configuration, and copy the tokenizer files.

    Args:
        adapter: of `adapter_state`: goes into the folder `adapter` beside the merged weights, where there is any.
        companions: a folder of what is to lie beside them too, such as the prompt; its files come last.
    """
    causal: Any = causal_of(model)
    config, generation = causal.config, list(origin.glob("generation_config.json"))
    trained, settings = config.dtype, causal.generation_config
    config.dtype = _stored_dtype(origin)
    if generation:
        # The file is copied below. transformers loads settings that contradict each other, and refuses to save them.
        causal.generation_config = GenerationConfig()
    try:
        causal.save_pretrained(folder, state_dict=state)
    finally:
        config.dtype, causal.generation_config = trained, settings
    for path in [*tokenizer_files(origin), *generation]:
        shutil.copyfile(path, folder / path.name)
    if adapter:
        save_adapter(model, adapter, folder / "adapter")
    if companions is not None:
        shutil.copytree(companions, folder, dirs_exist_ok=True)


def copy_student(origin: Path, folder: Path, companions: Path | None = None) -> None:
    """Write what `save_student` does, of the student as it was given: its files, byte for byte."""
    named = [*tokenizer_files(origin), *weight_files(origin), *origin.glob("*config.json"), *origin.glob("*.index.json")]
    for path in sorted(set(named)):
        shutil.copyfile(path, folder / path.name)
    if companions is not None:
        shutil.copytree(companions, folder, dirs_exist_ok=True)


def _stored_dtype(origin: Path) -> torch.dtype:
    dtype = AutoConfig.from_pretrained(origin).dtype
    # Some configurations name a type of 8 bits that their weights are not in; what was learnt would be lost in it.
    return dtype if dtype in (torch.float16, torch.bfloat16, torch.float64) else torch.float32
