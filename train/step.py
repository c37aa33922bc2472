"""A model and the examples of one optimiser step in; accumulated gradients and what was counted out."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.method.knowledge import GoldKnowledge
from kidcore.method.methods import METHODS, gold_weight
from kidcore.method.overlap import Overlap
from kidcore.models.trees.layout import PackLayout
from train.data.distribute import MicroBatcher, MicroBatches, idle_pack
from train.data.examples import Counts, TrainingExample
from train.data.packing import Pack
from train.data.sampler import hashed
from train.loss.head import Objective, head_loss
from train.loss.knowledge import NUM_GOLD, NUM_SUMS, knowledge_sums
from train.loss.losses import Divergence
from train.loss.weights import divergence_of
from train.student.layout import head_of, hidden_states
from train.student.products import casts_of_a_step, multiply_in_place
from train.student.ranks import ALONE, Ranks
from train.student.sharding import Sharded
from train.student.tables import add_in_place, gathered, is_added_in_place

_NUM_FIGURES = 2 + NUM_SUMS + 2
"""NLL and divergence, the knowledge of gold, tokens through the trunk and packs."""


@dataclass(frozen=True)
class RunObjective:
    """What is minimised: mle_weight * NLL per gold token + kd_weight * divergence per scored token."""

    mle_weight: float
    kd_weight: float
    divergence: Divergence | None

    @classmethod
    def of(cls, settings: TrainSettings) -> "RunObjective":
        """The recipe of the method that `settings` names."""
        own = METHODS[settings.method].divergence
        if own is None:
            return cls(1.0, 0.0, None)
        return cls(gold_weight(settings), settings.kd_weight, divergence_of(settings, own))

    def scaled(self, counts: Counts) -> Objective:
        """The objective of one pack of a step that has `counts` supervised tokens over all packs and processes."""
        return Objective(self.mle_weight / max(1, counts.mle), self.kd_weight / max(1, counts.kd), self.divergence)

    def loss(self, mle: float, kd: float) -> float:
        """The loss, from its parts per token."""
        return self.mle_weight * mle + self.kd_weight * kd


@dataclass(frozen=True)
class StepMetrics:
    """The losses per token of one step or evaluation, and how many tokens went where."""

    mle: float
    kd: float
    counts: Counts
    trunk_tokens: int
    """Tokens through the trunk, padding included."""
    naive_tokens: int
    """Tokens that one row a sequence would have put through it, without padding."""
    packs: int
    knowledge: GoldKnowledge | None = None
    """Of gold, where an evaluation was told the end of sequence."""
    overlap: Overlap | None = None
    """With the teacher's stored ids, at the same time; None where there are none."""


@dataclass(frozen=True)
class Runner:
    """A model, where it runs, and how its packs are laid out and divided over processes."""

    model: nn.Module
    device: torch.device
    layout: PackLayout
    pack_tokens: int
    autocast_dtype: torch.dtype | None
    ranks: Ranks = ALONE
    sharded: Sharded | None = None
    """The model divided over processes; each has to run as many packs as the others then."""

    @property
    def batcher(self) -> MicroBatcher:
        """What makes this process's share of a step."""
        return MicroBatcher(self.layout, self.pack_tokens, self.ranks.rank, self.ranks.world_size)

    def accumulate(self, examples: list[TrainingExample], recipe: RunObjective) -> StepMetrics:
        """`accumulate_share` of examples that are not cut yet."""
        return self.accumulate_share(self.batcher.cut(examples), recipe)

    def accumulate_share(self, share: MicroBatches, recipe: RunObjective, seed: int | None = None) -> StepMetrics:
        """Put the gradient of the step's loss, over all processes, into the parameters' .grad, one pack at a time.

        Each pack's sums are divided by the counts of the whole step, so the cut into packs does not matter. With a `seed`,
        dropout is decided by it and the pack's number alone.
        """
        if self.sharded is None:
            add_in_place(self.model)
            multiply_in_place(self.model)
        sums = self._run(share, recipe, train=True, seed=seed)
        if self.sharded is None:
            self.ranks.sum_gradients(self.model.parameters())
        return self._figures(sums, share.counts, share.naive_tokens)

    def evaluate(self, batches: Iterable[list[TrainingExample]], recipe: RunObjective, eos_id: int | None = None) -> StepMetrics:
        """The losses per token over all batches, without gradients or dropout; with `eos_id`, the knowledge of gold too."""
        counts, naive_tokens, sums = Counts(0, 0), 0, torch.zeros(_NUM_FIGURES, dtype=torch.float64)
        self.model.eval()
        try:
            with torch.no_grad():
                for batch in batches:
                    share = self.batcher.cut(batch)
                    sums += self._run(share, recipe, train=False, eos_id=eos_id)
                    counts, naive_tokens = counts + share.counts, naive_tokens + share.naive_tokens
        finally:
            self.model.train()
        return self._figures(sums, counts, naive_tokens, knows=eos_id is not None)

    def _figures(self, sums: Tensor, counts: Counts, naive_tokens: int, *, knows: bool = False) -> StepMetrics:
        mle, kd, *knowledge, trunk_tokens, packs = self.ranks.sum(sums).tolist()
        return StepMetrics(
            mle=mle / max(1, counts.mle),
            kd=kd / max(1, counts.kd),
            counts=counts,
            trunk_tokens=int(trunk_tokens),
            naive_tokens=naive_tokens,
            packs=int(packs),
            knowledge=GoldKnowledge.of(knowledge[:NUM_GOLD]) if knows else None,
            overlap=Overlap.of(knowledge[NUM_GOLD:]) if knows else None,
        )

    def _run(
        self, share: MicroBatches, recipe: RunObjective, *, train: bool, seed: int | None = None, eos_id: int | None = None
    ) -> Tensor:
        """NLL, divergence, sums of the knowledge of gold, tokens through the trunk and packs of this process's share."""
        objective = recipe.scaled(share.counts)
        losses = [torch.zeros(2 + NUM_SUMS, dtype=torch.float64, device=self.device)]
        with self._casts_of_a_step():
            if self.sharded is not None:
                for _ in range(share.rounds - len(share.packs)):
                    idle = idle_pack(self.layout).to(self.device)
                    self._run_pack(idle, Objective(0.0, 0.0, objective.divergence), train, eos_id)
            for number, pack in zip(share.numbers, share.packs, strict=True):
                if seed is not None:
                    torch.manual_seed(hashed("dropout", seed, number))
                losses.append(self._run_pack(pack.to(self.device), objective, train, eos_id))
        tokens = sum(pack.num_tokens for pack in share.packs)
        sums = torch.stack(losses).sum(0).tolist()
        return torch.tensor([*sums, tokens, len(share.packs)], dtype=torch.float64)

    def _run_pack(self, pack: Pack, objective: Objective, train: bool, eos_id: int | None) -> Tensor:
        def work(model: nn.Module) -> tuple[Tensor, Tensor]:
            hidden_RD, head = hidden_states(model, pack), head_of(model)
            result = head_loss(hidden_RD, *head, pack.targets, objective, self._gathers(head[0]) if train else None)
            sums = hidden_RD.new_zeros(2 + NUM_SUMS, dtype=torch.float64)
            sums[0], sums[1] = result.mle_sum, result.kd_sum
            if eos_id is not None:
                sums[2:] = knowledge_sums(hidden_RD, *head, pack.targets, eos_id)
            return result.loss, sums

        with self._autocast():
            loss, sums = work(self.model) if self.sharded is None else self.sharded(work)
        if train:
            # Operations of the backward pass run in the precision of the forward pass; autocast would change some.
            with torch.autocast(self.device.type, enabled=False):
                loss.backward()
        return sums

    def _gathers(self, weight: Tensor) -> Tensor | None:
        """Where the LM head's gradient is added in place; None where autograd has to bring it."""
        return gathered(weight) if self.sharded is None and is_added_in_place(weight) else None

    @contextmanager
    def _casts_of_a_step(self) -> Iterator[None]:
        """One autocast around all packs, so that weights are cast once a step; nested ones keep what it has cast.

        Not where that would hold what was to be saved: the weights of divided layers, and those of checkpointed ones.
        """
        if self.sharded is not None or self._is_checkpointed:
            yield
            return
        with self._autocast(), casts_of_a_step():
            yield

    @property
    def _is_checkpointed(self) -> bool:
        return bool(getattr(self.model, "is_gradient_checkpointing", False))

    def _autocast(self) -> AbstractContextManager[None]:
        # A checkpointed pass uses each cast once, and would keep those of all layers until it ends.
        enabled, keeps = self.autocast_dtype is not None, not self._is_checkpointed
        return torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=enabled, cache_enabled=keeps)


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
