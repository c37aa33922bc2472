"""Logits and a seed a row in, logits whose likeliest token is a sample out.

transformers draws a whole batch from one stream of random numbers, so that a row's answer would depend on its neighbours.
`Noise` (the Gumbel-max trick) draws a number a token of the vocabulary, as the vLLM engine does, so that both give the same
answers. `Draw` draws one number an answer's token, which costs next to nothing: for students that answer while they train.
"""

import hashlib
from abc import ABC, abstractmethod
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


def drawn(seeds: Sequence[int], temperature: float, steps: Sequence[int], logits_BV: Tensor) -> Tensor:
    """0 at a token drawn for each row, of the number in its answer that `steps` says, and -inf elsewhere."""
    # Summed in double precision: the order of the sums, which GPUs change, moves no bound that a draw could fall on.
    total_BV = (logits_BV.float() / temperature).softmax(-1).double().cumsum(-1)
    drawn_B = torch.tensor([_uniform(*pair) for pair in zip(seeds, steps, strict=True)], dtype=torch.float64)
    wanted_B1 = drawn_B.to(total_BV.device)[:, None] * total_BV[:, -1:]
    # The first token whose sum is above: tokens of probability 0 add nothing, and are never it.
    token_B1 = torch.searchsorted(total_BV, wanted_B1, right=True).clamp_max(logits_BV.shape[-1] - 1)
    return torch.full_like(logits_BV, -torch.inf).scatter_(1, token_B1, 0.0)


class Sampler(LogitsProcessor, ABC):  # type: ignore[misc]  # transformers is not typed
    """For a batch of answers in transformers, whose greedy search over the result samples at `temperature`."""

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self._seeds, self._temperature, self._step = seeds, temperature, 0

    def __call__(self, _ids: Tensor, logits_BV: Tensor) -> Tensor:
        """Called once a step, with all answers."""
        every = range(len(self._seeds))
        logits_BV = self.at(every, [self._step for _ in every], logits_BV)
        self._step += 1
        return logits_BV

    @abstractmethod
    def at(self, rows: Sequence[int], steps: Sequence[int], logits_BV: Tensor) -> Tensor:
        """The same for some of the answers, each at a step of its own."""


class Noise(Sampler):
    """Perturbs the logits."""

    def at(self, rows: Sequence[int], steps: Sequence[int], logits_BV: Tensor) -> Tensor:
        """Perturbed logits of some of the answers."""
        asked = zip(rows, steps, logits_BV, strict=True)
        return torch.stack([perturbed(self._seeds[row], self._temperature, step, row_V) for row, step, row_V in asked])


class Draw(Sampler):
    """Leaves the drawn token alone, found by inverting the distribution function."""

    def at(self, rows: Sequence[int], steps: Sequence[int], logits_BV: Tensor) -> Tensor:
        """0 at the token of each of some answers and -inf elsewhere."""
        return drawn([self._seeds[row] for row in rows], self._temperature, steps, logits_BV)


def _uniform(seed: int, step: int) -> float:
    """A number in [0, 1) that looks random."""
    digest = hashlib.sha256(f"{seed}|draw|{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") / 2**64 * (1 - 2**-53)
