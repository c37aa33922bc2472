"""A model and the examples of one optimiser step in; accumulated gradients and what was counted out."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kidpipe.config import TrainSettings
from kidpipe.errors import KidpipeError
from kidpipe.methods import METHODS, gold_weight
from kidpipe.trees.layout import Layout
from train.examples import Counts, Example, count_supervised
from train.head import Objective, head_loss
from train.losses import Divergence, divergence
from train.packing import Pack, make_packs
from train.trunk import head_of, hidden_states


@dataclass(frozen=True)
class Recipe:
    """What is minimised: mle_weight * NLL per gold token + kd_weight * divergence per scored token."""

    mle_weight: float
    kd_weight: float
    divergence: Divergence | None

    @classmethod
    def of(cls, settings: TrainSettings) -> "Recipe":
        """The recipe of the method that `settings` names."""
        own = METHODS[settings.method].divergence
        if own is None:
            return cls(1.0, 0.0, None)
        name = own if settings.divergence == "auto" else settings.divergence
        return cls(gold_weight(settings), settings.kd_weight, divergence(name, settings.divergence_parameter))

    def scaled(self, counts: Counts) -> Objective:
        """The objective of one pack of a step that has `counts` supervised tokens over all packs and processes."""
        return Objective(self.mle_weight / max(1, counts.mle), self.kd_weight / max(1, counts.kd), self.divergence)

    def loss(self, mle: float, kd: float) -> float:
        """The loss, from its parts per token."""
        return self.mle_weight * mle + self.kd_weight * kd


@dataclass(frozen=True)
class Figures:
    """The losses per token of one step or evaluation, and how many tokens went where."""

    mle: float
    kd: float
    counts: Counts
    trunk_tokens: int
    """Tokens through the trunk, padding included."""
    naive_tokens: int
    """Tokens that one row a sequence would have put through it, without padding."""
    packs: int


@dataclass(frozen=True)
class Runner:
    """A model, where it runs, and how its packs are laid out."""

    model: nn.Module
    device: torch.device
    layout: Layout
    pack_tokens: int
    autocast_dtype: torch.dtype | None

    def accumulate(self, examples: list[Example], recipe: Recipe) -> Figures:
        """Add the gradient of the step's loss to the parameters' .grad, one pack at a time.

        Each pack's sums are divided by the counts of the whole step, so the cut into packs does not matter.
        """
        return self._run(examples, recipe, train=True)

    def evaluate(self, batches: Iterable[list[Example]], recipe: Recipe) -> Figures:
        """The losses per token over all batches, without gradients or dropout."""
        self.model.eval()
        try:
            with torch.no_grad():
                parts = [self._run(batch, recipe, train=False) for batch in batches]
        finally:
            self.model.train()
        counts = sum((part.counts for part in parts), Counts(0, 0))
        return Figures(
            mle=sum(part.mle * part.counts.mle for part in parts) / max(1, counts.mle),
            kd=sum(part.kd * part.counts.kd for part in parts) / max(1, counts.kd),
            counts=counts,
            trunk_tokens=sum(part.trunk_tokens for part in parts),
            naive_tokens=sum(part.naive_tokens for part in parts),
            packs=sum(part.packs for part in parts),
        )

    def _run(self, examples: list[Example], recipe: Recipe, *, train: bool) -> Figures:
        counts = count_supervised(examples)
        objective = recipe.scaled(counts)
        sums: list[Tensor] = []
        trunk_tokens = 0
        for pack in make_packs(examples, self.layout, self.pack_tokens):
            trunk_tokens += pack.num_tokens
            sums.append(self._run_pack(pack.to(self.device), objective, train))
        mle, kd = (float(x) for x in torch.stack(sums).sum(0))
        return Figures(
            mle=mle / max(1, counts.mle),
            kd=kd / max(1, counts.kd),
            counts=counts,
            trunk_tokens=trunk_tokens,
            naive_tokens=sum(len(branch.tokens) for example in examples for branch in example.branches),
            packs=len(sums),
        )

    def _run_pack(self, pack: Pack, objective: Objective, train: bool) -> Tensor:
        with self._autocast():
            result = head_loss(hidden_states(self.model, pack), *head_of(self.model), pack.targets, objective)
        if train:
            result.loss.backward()  # type: ignore[no-untyped-call]
        return torch.stack([result.mle_sum, result.kd_sum])

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None)


def autocast_dtype(settings: TrainSettings, device: torch.device) -> torch.dtype | None:
    """The dtype of forward and backward; None = float32. Weights and optimiser stay in float32."""
    if settings.dtype == "float16":
        raise KidpipeError(
            "training in float16 loses small gradients",
            where="train.dtype = float16",
            fix="set train.dtype to auto, bfloat16 or float32",
        )
    if settings.dtype == "bfloat16":
        return torch.bfloat16
    if settings.dtype == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return None
