"""A model in; a small random one of its kind in float32 out, which shows what the kind does with masks and positions."""

import copy
from typing import Any

import torch
from torch import nn

from kidcore.models.trees.trunk import causal_of

_VOCABULARY = 64


def small_twin(model: nn.Module) -> nn.Module:
    """As many layers as hold each kind of attention layer, at least two, with the model's heads and attention implementation.

    Nobody's random numbers move. Raises whatever the constructor does.
    """
    causal: Any = causal_of(model)
    config: Any = copy.deepcopy(causal.config)
    kinds = getattr(config, "layer_types", None)
    number = max(2, *(kinds.index(kind) + 1 for kind in set(kinds))) if kinds else 2
    config.num_hidden_layers = min(number, config.num_hidden_layers)
    if kinds:
        config.layer_types = kinds[: config.num_hidden_layers]
    config.vocab_size = _VOCABULARY
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    config.dtype = torch.float32
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.device(device):
        torch.manual_seed(0)
        twin: nn.Module = type(causal)(config)
    return twin.float().eval()
