"""Sizes of a device in; students, steps and clocks for the parts of bench.gpu out, and how a figure of several is recorded."""

import functools
import gc
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.examples import draw_rows, make_steps
from bench.students import QWEN2_05B, QWEN2_15B, TINY, Load, Shape, Trainee
from bench.timing import Stopwatch, release
from kidcore.config.train_settings import TrainSettings
from kidcore.models.trees import flex
from train.data.distribute import MicroBatches
from train.data.examples import TrainingExample
from train.memory import StudentShape, step_bytes
from train.step import Runner
from train.student.compiled import layers_of

Record = Callable[[str, Any], None]
_SPREAD: dict[str, Any] = {"group_size": 4, "rewritten": 0.2}


@dataclass
class Bench:
    """What the parts share: sizes, steps, and a student that is made when it is first asked for."""

    device: str
    shape: Shape
    teacher: Shape
    batch: int
    views: int
    packs: tuple[int, ...]
    repeats: int
    _made: dict[str, Trainee] = field(default_factory=dict)

    @classmethod
    def on(cls, device: str) -> "Bench":
        """Real sizes on a GPU, tiny ones on a CPU."""
        if device == "cpu":
            return cls(device, TINY[0], TINY[1], 4, 1, (512, 1024), 1)
        return cls(device, QWEN2_05B, QWEN2_15B, 32, 4, (4096, 8192, 16384), 3)

    @property
    def is_gpu(self) -> bool:
        """Whether figures of a device can be had."""
        return self.device == "cuda"

    def steps(self, count: int, batch: int = 0, views: int | None = None) -> list[list[TrainingExample]]:
        """Questions of `count` steps; the same for every number of views."""
        batch = batch or self.batch
        rows = draw_rows(count * batch, 4, seed=1)
        chosen = self.views if views is None else views
        vocab_size = self.shape.vocab_size
        return make_steps(rows, batch_size=batch, views=chosen, vocab_size=vocab_size, num_steps=count, **_SPREAD)

    def trainee(self, name: str = "kid", shape: Shape | None = None, **changes: Any) -> Trainee:
        """The student under this name alone: others are given up."""
        if name not in self._made:
            self.give_up()
            load = Load(self.batch, self.packs[-1], 1, self.device)
            settings = TrainSettings.model_validate({"method": "kid", "dtype": "bfloat16"} | changes)
            self._made[name] = Trainee(shape or self.shape, load, settings)
        return self._made[name]

    @functools.cached_property
    def product_rate(self) -> float:
        """Operations a second of a large matrix product."""
        side = 8192 if self.is_gpu else 256
        left, right = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        return 10 * 2 * side**3 / self.seconds(lambda: [left @ right for _ in range(10)])

    def give_up(self) -> None:
        """Let go of all models."""
        self._made.clear()
        gc.collect()
        release()

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of the second of two calls."""
        work()
        watch = Stopwatch(self.device)
        watch.start()
        work()
        watch.stop()
        return watch.wall_s

    def peak_gb(self, work: Callable[[], Any]) -> float:
        """The most that tensors hold meanwhile."""
        if not self.is_gpu:
            work()
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 1e9


def record_steps(bench: Bench, record: Record, trainee: Trainee, name: str, shares: Sequence[MicroBatches]) -> float:
    times = [bench.seconds(lambda share=share: trainee.step(share)) for share in shares]  # type: ignore[misc]
    seconds = statistics.median(times)
    record(f"{name}: ms", 1e3 * seconds)
    record(f"{name}: ms, each", [round(1e3 * x, 1) for x in times])
    record(f"{name}: peak GB", bench.peak_gb(lambda: trainee.step(shares[-1])))
    record(f"{name}: rows", [sum(pack.num_tokens for pack in share.packs) for share in shares])
    record(f"{name}: share of the product's peak", _operations(trainee, shares[-1]) / seconds / bench.product_rate)
    return seconds


def _operations(trainee: Trainee, share: MicroBatches) -> float:
    """Of the matrix products that a step cannot do without."""
    slots = sum(len(pack.targets.row_M) for pack in share.packs)
    rows = sum(pack.num_tokens for pack in share.packs)
    trunk: int = sum(p.numel() for layer in layers_of(trainee.model) for p in layer.parameters())
    head: Any = trainee.model.get_output_embeddings()  # type: ignore[operator]
    return 6.0 * (rows * trunk + slots * int(head.weight.numel()))


def gradients(trainee: Trainee, share: MicroBatches, runner: Runner | None = None) -> dict[str, Tensor]:
    trainee.model.zero_grad(set_to_none=True)
    (runner or trainee.runner).accumulate_share(share, trainee.recipe)
    return {name: p.grad.clone() for name, p in trainee.model.named_parameters() if p.grad is not None}


def longest_column(share: MicroBatches) -> int:
    """Query blocks that the busiest program of attention's backward pass walks."""
    plans = [flex.make_flex_plan(pack.tout, torch.device("cpu")) for pack in share.packs if pack.tout is not None]
    return max(int((plan.blocks[4] + plan.blocks[6]).max()) for plan in plans)


def record_kernels(bench: Bench, record: Record, name: str, work: Callable[[], Any]) -> None:
    """How long kernels are busy in one call, how many there are, and the longest."""
    if not bench.is_gpu:
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    events = [event for event in profile.key_averages() if event.self_device_time_total > 0]
    record(f"{name}: kernels, ms", sum(event.self_device_time_total for event in events) / 1e3)
    record(f"{name}: launches", sum(event.count for event in events))
    longest = sorted(events, key=lambda event: -event.self_device_time_total)[:12]
    record(f"{name}: longest kernels, ms", {x.key[:90]: round(x.self_device_time_total / 1e3, 2) for x in longest})


def record_peak(
    bench: Bench, record: Record, name: str, trainee: Trainee, runner: Runner, share: MicroBatches, shape: Shape | None = None
) -> None:
    found = bench.peak_gb(lambda: trainee.step(share, runner))
    largest = max(pack.num_tokens for pack in share.packs)
    settings = trainee.settings.model_copy(update={"pack_tokens": -(-largest // flex.BLOCK) * flex.BLOCK})
    expected = step_bytes(_student_shape(shape or bench.shape), settings, runner.device) / 1e9
    record(f"{name}: largest pack", largest)
    record(f"{name}: peak GB", found)
    record(f"{name}: peak GB expected", expected)


def _student_shape(shape: Shape) -> StudentShape:
    size = shape.hidden // shape.heads
    weights = shape.trunk_parameters + shape.vocab_size * shape.hidden
    widths = (shape.heads * size, shape.kv_heads * size)
    return StudentShape(
        weights, shape.layers, shape.hidden, shape.intermediate, shape.heads, *widths, shape.vocab_size, is_bfloat16=True
    )
