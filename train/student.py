"""A model folder in, a trainable model out; a trained model in, an ordinary save_pretrained folder out."""

import shutil
from pathlib import Path

import torch
from torch import nn

from kidpipe.errors import KidpipeError

_TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.tiktoken",
    "*.model",
)


def load_student(path: Path, device: torch.device, *, gradient_checkpointing: bool) -> nn.Module:
    """The causal language model in folder `path`, in float32, ready to train."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        raise KidpipeError(
            f"the student cannot be loaded: {str(error).splitlines()[0]}",
            where=str(path),
            fix="set train.student to a folder made by save_pretrained, with its weights and tokenizer",
        ) from error
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    return model.to(device).train()


def save_student(model: nn.Module, origin: Path, folder: Path) -> None:
    """Write weights and configuration in the precision that the student was stored in, and copy its tokenizer files."""
    config = model.config
    stored, trained = _stored_dtype(origin), config.dtype
    state = {name: tensor.to(stored) if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
    config.dtype = stored
    try:
        model.save_pretrained(folder, state_dict=state)  # type: ignore[operator]
    finally:
        config.dtype = trained
    for pattern in _TOKENIZER_FILES:
        for path in origin.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)


def _stored_dtype(origin: Path) -> torch.dtype:
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(origin).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
