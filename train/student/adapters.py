"""A causal language model in, the same with LoRA adapters beside its linear layers out; and merged weights for export."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from train.student.sharding import gather

_ADAPTER = "default"
"""peft's name of the only adapter."""
_ALL = "all-linear"


def add_adapters(model: nn.Module, settings: TrainSettings) -> nn.Module:
    """Freeze `model` and put trainable adapters beside its linear layers, without dropout.

    Dropout would draw other masks for a prompt that is shared than for its copies.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise KidpipeError(
            "LoRA needs peft, which is not installed", where="train.lora_rank", fix="pip install 'kidpipe[lora]'"
        ) from error
    names = _targets(model, settings)
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules=_ALL if names == [_ALL] else names,
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            # peft warns of tied layers, which are refused below.
            warnings.simplefilter("ignore", UserWarning)
            adapted: nn.Module = get_peft_model(model, config)
    except ValueError as error:
        raise _no_target(f"no adapter can stand beside {settings.lora_targets}", model) from error
    _refuse_shared(adapted, settings)
    peft: Any = adapted
    if settings.student:
        # The Hub's name, where the student has one: what it was loaded from is a folder of this machine's cache.
        peft.peft_config[_ADAPTER].base_model_name_or_path = settings.student
    return adapted


def _targets(model: nn.Module, settings: TrainSettings) -> list[str]:
    """The names in `lora_targets`. peft is content with one that is a layer's, and would leave out one that is misspelt."""
    names = [name.strip() for name in settings.lora_targets.split(",") if name.strip()]
    if names == [_ALL]:
        return names
    ends = [f".{name}" for name, _layer in model.named_modules()]
    if lost := [name for name in names if not any(end.endswith(f".{name}") for end in ends)]:
        raise _no_target(f"no layer is called {' or '.join(lost)}", model)
    if not names:
        raise _no_target("no layer is named", model)
    return names


def _no_target(what: str, model: nn.Module) -> KidpipeError:
    linear = sorted({name.rpartition(".")[2] for name, x in model.named_modules() if isinstance(x, nn.Linear)})
    return KidpipeError(what, where="train.lora_targets", fix=f"choose {_ALL} alone, or among {', '.join(linear)}")


def _refuse_shared(adapted: nn.Module, settings: TrainSettings) -> None:
    """An adapter on one of several layers that share a weight cannot be merged: it would be added to all of them."""
    owners: dict[int, set[str]] = {}
    for name, parameter in adapted.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name.removeprefix("base_model.model.").replace(".base_layer.", "."))
    for name, layer in adapted.named_modules():
        base: nn.Module | None = getattr(layer, "base_layer", None) if hasattr(layer, "get_delta_weight") else None
        shared = next((x for p in base.parameters() if len(x := owners[id(p)]) > 1), None) if base is not None else None
        if shared is not None:
            short = name.rpartition(".")[2]
            raise KidpipeError(
                f"an adapter on {short} cannot be saved: its weight is another layer's too ({', '.join(sorted(shared))})",
                where=f"train.lora_targets = {settings.lora_targets}",
                fix=f"leave {short} out of train.lora_targets (all-linear, the default, does), or train all weights",
            )


def adapter_state(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """The adapters' own weights, whole; empty without adapters. Every process of a sharded run has to ask."""
    if not hasattr(model, "peft_config"):
        return {}
    return {name: gather(x, keep=keep) for name, x in model.state_dict().items() if ".lora_" in name}


def save_adapter(model: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
    """Write what `adapter_state` gave as peft does: peft loads it on the base model, and vLLM beside it."""
    peft: Any = model
    # Embeddings are not looked at: peft would ask the Hub for the base model's configuration.
    peft.save_pretrained(folder, state_dict=state, save_embedding_layers=False)


def keep_frozen_cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep frozen weights in the `dtype` to which autocast casts them in every pack, where that loses nothing.

    Results stay the same bit by bit, at half the memory, and no cast is held for the backward pass. To be run under
    autocast from then on. Linear layers, and embeddings, whose rows are widened as they are looked up. peft would widen what
    goes into an adapter to the adapter's float32, which autocast undoes: there that falls away.
    """
    kinds: dict[int, tuple[nn.Parameter, list[nn.Module]]] = {}
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            vars(module)["cast_input_dtype_enabled"] = False
        for parameter in module.parameters(recurse=False):
            kinds.setdefault(id(parameter), (parameter, []))[1].append(module)
    for parameter, owners in kinds.values():
        if parameter.requires_grad or parameter.dtype != torch.float32 or not all(type(x) in _CAST for x in owners):
            continue
        cast = parameter.data.to(dtype)
        if torch.equal(cast.float(), parameter.data):
            parameter.data = cast
            for module in owners:
                if isinstance(module, nn.Embedding):
                    module.register_forward_hook(_widen)


_CAST = (nn.Linear, nn.Embedding)


def _widen(_module: nn.Module, _inputs: Any, rows: Tensor) -> Tensor:
    return rows.float()


def merged_state(causal: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights under the names of the plain model, adapters added in; the model itself is left as it is."""
    layers: dict[str, Any] = {f"{name}.": x for name, x in causal.named_modules() if hasattr(x, "get_delta_weight")}
    for name, tensor in causal.state_dict().items():
        owner = next((prefix for prefix in layers if name.startswith(prefix)), "")
        if not owner:
            yield name, tensor
        elif name.startswith(f"{owner}base_layer."):
            plain = name.replace("base_layer.", "")
            is_weight = name == f"{owner}base_layer.weight"
            yield plain, tensor + layers[owner].get_delta_weight(_ADAPTER) if is_weight else tensor
