"""A step number in, a learning rate out; and the AdamW that uses it."""

import math

import torch
from torch import nn

from kidcore.config.config import TrainSettings


def learning_rate(settings: TrainSettings, step: int, num_steps: int) -> float:
    """The rate of optimiser step `step` (0 is the first): linear warm-up, then a cosine down to min_lr of the peak."""
    warmup = round(settings.warmup * num_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    share = settings.min_lr + (1 - settings.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.learning_rate * share


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; only matrices decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, settings.beta2), fused=True)
