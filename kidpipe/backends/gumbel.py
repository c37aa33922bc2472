"""Logits and a seed a row in, logits whose likeliest token is a sample out (the Gumbel-max trick).

transformers draws a whole batch from one stream of random numbers, so that a row's answer would depend on its neighbours.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


def perturbed(seed: int, temperature: float, step: int, logits_V: Tensor) -> Tensor:
    """Logits over temperature plus the noise of one answer's token number `step`; drawn on the CPU, the same on any device."""
    digest = hashlib.sha256(f"{seed}|{step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    # In single precision one in 2 ** 24 draws is 0, whose logarithm would beat every logit.
    drawn_V = torch.empty(logits_V.shape[-1], dtype=torch.float64).exponential_(generator=generator)
    return logits_V.float() / temperature - drawn_V.clamp(min=1e-18).log().float().to(logits_V.device)


class Noise(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Noise for a batch of answers in transformers; greedy search over the result samples at `temperature`."""

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self._seeds, self._temperature, self._step = seeds, temperature, 0

    def __call__(self, _ids: Tensor, logits_BV: Tensor) -> Tensor:
        """Perturbed logits; called once a step."""
        rows = [perturbed(seed, self._temperature, self._step, row_V) for seed, row_V in zip(self._seeds, logits_BV, strict=True)]
        self._step += 1
        return torch.stack(rows)
