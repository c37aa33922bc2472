"""Shapes in; Qwen2 models with random weights out, and turns of our trainer's optimiser step over given examples.

Random weights cost what trained ones do, but for generation: a random student never ends its SQL, so every benchmark that
generates bounds the length by that of the gold SQL.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from bench.timing import Cost, PeakMemory, Stopwatch, Turn
from kidcore.config.train_settings import TrainSettings
from train.data.distribute import MicroBatches
from train.data.examples import TrainingExample
from train.schedule import make_optimizer
from train.step import Runner, RunObjective, StepMetrics, autocast_dtype
from train.student.adapters import add_adapters, keep_frozen_cast
from train.student.layout import choose_layout


@dataclass(frozen=True)
class Shape:
    """A Qwen2 model."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab_size: int

    @property
    def trunk_parameters(self) -> int:
        """Weights of the layers, without embeddings."""
        head = self.hidden // self.heads
        attention = self.hidden * head * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


@dataclass(frozen=True)
class Load:
    """How the examples are worked through: the same for every way that is compared."""

    batch_size: int
    pack_tokens: int
    """Tokens a forward pass, ours and (in rows of a micro-batch, or as the length of a pack) the others'."""
    steps: int
    """Optimiser steps of a turn. They are taken twice, and the second time counts: by then no size is new to the allocator and
    the libraries, which plan anew for each (0.1 s a pack, seen on an H100 under masked attention)."""
    device: str


QWEN2_05B = Shape("Qwen2-0.5B", 896, 24, 14, 2, 4864, 151_936)
QWEN2_15B = Shape("Qwen2-1.5B", 1536, 28, 12, 2, 8960, 151_936)
VOCAB_SIZE = 2000
"""Of the tokenizer, which is learnt from the data, and of the small shapes: their heads weigh 0.2 to 0.4 of their layers, as
those of models from 0.5 to 1.5 billion weights do."""
TINY = [Shape("d64", 64, 1, 2, 1, 96, VOCAB_SIZE), Shape("d128", 128, 1, 2, 1, 192, VOCAB_SIZE)]
QUICK = [Shape("d128", 128, 2, 2, 1, 384, VOCAB_SIZE), Shape("d192", 192, 4, 3, 1, 576, VOCAB_SIZE)]
FULL = [Shape("d256", 256, 6, 4, 2, 768, VOCAB_SIZE), Shape("d512", 512, 8, 8, 2, 1536, VOCAB_SIZE)]
CUDA = [Shape("d512", 512, 12, 8, 2, 2048, 151_936), QWEN2_05B]
_LOADS = {"tiny": (4, 1024, 1), "quick": (32, 4096, 1), "full": (32, 4096, 4), "cuda": (32, 8192, 2)}
"""Examples a step, tokens a pack, steps."""


def shapes(size: str, device: str) -> list[Shape]:
    """The students of a benchmark, smallest first."""
    if size == "tiny":
        return TINY
    if device == "cuda":
        return CUDA
    return FULL if size == "full" else QUICK


def load_of(size: str, device: str) -> Load:
    """How much a benchmark of the trainer does at each size."""
    return Load(*_LOADS["cuda" if device == "cuda" and size != "tiny" else size], device=device)


def teacher_of(student: Shape) -> Shape:
    """A teacher about three times as large, with the student's vocabulary."""
    if student.hidden >= QWEN2_05B.hidden:
        return QWEN2_15B
    heads = student.heads * 3 // 2
    wide = heads * student.hidden // student.heads
    return Shape(f"teacher of {student.name}", wide, student.layers + 1, heads, 1, 3 * wide, student.vocab_size)


def make_model(shape: Shape, device: str, seed: int = 0) -> Any:
    """Float32, tied embeddings, attention through SDPA."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    torch.manual_seed(seed)
    with torch.device(device):
        return Qwen2ForCausalLM(config).float()


_RATE = 2e-4


class Trainee:
    """A student in our trainer's step, without the trainer's files."""

    def __init__(self, shape: Shape, load: Load, settings: TrainSettings) -> None:
        device = torch.device(load.device)
        self.model: nn.Module = make_model(shape, load.device).train()
        dtype = autocast_dtype(settings, device)
        if settings.lora_rank:
            with torch.no_grad():
                # As weights are that were stored in half precision.
                for parameter in self.model.parameters():
                    parameter.copy_(parameter.bfloat16())
            self.model = add_adapters(self.model, settings)
        layout = choose_layout(self.model, settings.packing, dtype)
        if settings.lora_rank and dtype is not None:
            keep_frozen_cast(self.model, dtype)
        self.runner = Runner(self.model, device, layout, load.pack_tokens, dtype)
        # `auto` is settled by a student's files, which this one has not; the rate changes no cost.
        self.settings = settings if settings.learning_rate != "auto" else settings.model_copy(update={"learning_rate": _RATE})
        self.recipe = RunObjective.of(settings)
        self._optimizer = make_optimizer(self.model, self.settings)

    def beside(self, settings: TrainSettings) -> "Trainee":
        """The same student and optimiser under another method."""
        twin = copy(self)
        twin.settings = settings.model_copy(update={"learning_rate": _RATE})
        twin.recipe = RunObjective.of(settings)
        return twin

    def step(self, examples: Sequence[TrainingExample] | MicroBatches, runner: Runner | None = None) -> StepMetrics:
        """One optimiser step, as train.trainer takes it, by a `runner` that packs otherwise if there is one."""
        runner = runner or self.runner
        share = examples if isinstance(examples, MicroBatches) else runner.batcher.cut(list(examples))
        self._optimizer.zero_grad(set_to_none=True)
        figures = runner.accumulate_share(share, self.recipe)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip))
        assert math.isfinite(norm), "the gradient is not finite"
        self._optimizer.step()
        return figures


Lessons = Callable[[float, list[TrainingExample]], list[TrainingExample]]
"""(share of the run that is done, gold examples of a step) -> what the step learns from."""
Open = Callable[[Trainee], Lessons]


def our_turn(
    shape: Shape, load: Load, steps: list[list[TrainingExample]], settings: Mapping[str, Any], open_lessons: Open | None = None
) -> Turn:
    """Optimiser steps over `steps`, twice.

    Args:
        shape: the student, made anew.
        load: how much.
        steps: examples as an offline method stores them, or gold ones for an online method.
        settings: of `[train]`: method, packing and what differs from the defaults.
        open_lessons: an online method's, called once the student is there.
    """
    checked = TrainSettings.model_validate({"batch_size": load.batch_size} | dict(settings))
    assert len(steps) == load.steps, f"{len(steps)} steps for a turn of {load.steps}"
    return partial(_take_turn, shape, load, steps, checked, open_lessons)


def _take_turn(
    shape: Shape,
    load: Load,
    steps: list[list[TrainingExample]],
    settings: TrainSettings,
    open_lessons: Open | None,
    measure_memory: bool,
) -> Cost:
    watch, peak = Stopwatch(load.device), PeakMemory(load.device, wanted=measure_memory)
    if load.device == "cuda":
        peak.start()
    trainee = Trainee(shape, load, settings)
    lessons = open_lessons(trainee) if open_lessons else None
    first_loss, tokens, examples = math.nan, 0, 0
    for number, step in enumerate(steps * 2):
        if number == load.steps - 1 and load.device == "cpu":
            peak.start()
        if number == load.steps:
            watch.start()
        done = (number % load.steps + 0.5) / load.steps
        figures = trainee.step(lessons(done, step) if lessons else step)
        if number == load.steps - 1 and load.device == "cpu":
            peak.stop()
        if number == 0 and settings.method == "sft":
            first_loss = figures.mle
        if number >= load.steps:
            tokens, examples = tokens + figures.trunk_tokens, examples + len(step)
    watch.stop()
    if load.device == "cuda":
        peak.stop()
    return Cost(examples, watch.wall_s, watch.cpu_s, peak.mib, tokens, first_loss)
