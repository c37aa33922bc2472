"""A student on the CPU in; the student where it trains out: whole or divided, how it packs, and what generates in its place."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from kidcore.config.settings import fingerprint
from kidcore.config.train_settings import TrainSettings
from kidcore.method.methods import METHODS
from kidcore.models.trees.layout import PackLayout
from train.step import autocast_dtype
from train.student.adapters import keep_frozen_cast
from train.student.compiled import compile_layers
from train.student.layout import check_head, choose_layout
from train.student.ranks import Ranks
from train.student.sharding import Sharded, choose_parallel, shard, whole
from train.student.student import load_student, sketch_student


class WholeCopy:
    """The weights of a divided student, whole in each process and without gradients, for it to generate with."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        """Around a copy of the student, for running it under autocast to `dtype` (None: without).

        What autocast would cast anew for each token is kept cast: results stay the same at half the memory. Embeddings, and
        LM heads tied to them, are not cast there and stay as they are.
        """
        self.model = model.requires_grad_(False).eval()
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        for module in model.modules():
            if dtype is not None and isinstance(module, nn.Linear) and id(module.weight) not in embeddings:
                module.to(dtype)

    @torch.no_grad()
    def refresh(self, sharded: Sharded) -> None:
        """Take over the trained weights as they are now; all processes have to do so together."""
        own = dict(self.model.named_parameters())
        sharded.reshard()
        for name, parameter in sharded.model.named_parameters():
            if parameter.requires_grad:
                own[name].copy_(whole(parameter))


@dataclass(frozen=True)
class Placed:
    """A student, ready to train."""

    model: nn.Module
    sharded: Sharded | None
    """The model divided over processes."""
    copy: WholeCopy | None
    """What generates in the place of a divided model, under methods whose student makes sequences."""
    layout: PackLayout
    autocast_dtype: torch.dtype | None

    @property
    def generator(self) -> nn.Module:
        """The model that makes sequences during training."""
        return self.copy.model if self.copy else self.model

    def refresh(self) -> None:
        """Let the generator have the weights of this moment; all processes have to do so together."""
        if self.copy and self.sharded:
            self.copy.refresh(self.sharded)


def load_and_place(origin: Path, settings: TrainSettings, ranks: Ranks) -> Placed:
    """Put the student in folder `origin` where it trains; of one that is divided only the first process loads the weights.

    The others begin without them and are given each layer's when it is divided, so that none of them ever holds the whole.
    """
    cpu = torch.device("cpu")
    sketch = None
    # Who generates during training keeps a whole model anyway.
    if not ranks.is_first and not METHODS[settings.method].is_online:
        sketch = sketch_student(origin, settings)
    model = load_student(origin, cpu, settings) if sketch is None else sketch
    # Weights are given in the order of their names: those of a checkpoint may be tied otherwise than its configuration says.
    seen = (choose_parallel(settings.parallel, model, ranks), _names(model))
    is_shared = seen[0] == "fsdp" and len(set(ranks.gather(seen))) == 1
    if sketch is not None and not is_shared:
        model = load_student(origin, cpu, settings)
    return place(model, settings, ranks)


def _names(model: nn.Module) -> str:
    """One text for the names and shapes of all tensors."""
    return fingerprint([[name, list(x.shape)] for name, x in (*model.named_parameters(), *model.named_buffers())])


def place(model: nn.Module, settings: TrainSettings, ranks: Ranks) -> Placed:
    """Put the student where it trains; it is whole and the same in every process, or in the first, and others have a sketch."""
    dtype = autocast_dtype(settings, ranks.device)

    def choose(model: nn.Module) -> PackLayout:
        check_head(model)
        return choose_layout(model, settings.packing, dtype)

    if choose_parallel(settings.parallel, model, ranks) == "ddp":
        model = model.to(ranks.device)
        # Tried as it was loaded, for the same reason as below.
        layout = choose(model)
        if settings.lora_rank and dtype is not None:
            keep_frozen_cast(model, dtype)
        if settings.compile and ranks.device.type == "cuda":
            compile_layers(model, dtype)
        return Placed(model, None, None, layout, dtype)
    copy = None
    if METHODS[settings.method].is_online:
        twin = deepcopy(model).to(ranks.device)
        # Tried as it was loaded: half of the weights in another precision run under autocast only.
        choose(twin)
        copy = WholeCopy(twin, dtype)
    sharded = shard(model, ranks)
    return Placed(model, sharded, copy, sharded.inspect(choose), dtype)
