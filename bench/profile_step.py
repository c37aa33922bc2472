"""A trainee and the examples of a step in; where the step's time goes, by kind of work, out."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bench.students import Trainee
from bench.timing import table
from train.data.examples import TrainingExample

_KINDS = (
    ("optimiser and clipping", re.compile(r"adam|_foreach|clip_grad|linalg_vector_norm|Optimizer", re.IGNORECASE)),
    ("attention", re.compile(r"attention|flash|fmha|flex|sdpa", re.IGNORECASE)),
    ("matrix products", re.compile(r"\baten::(mm|addmm|addmm_|bmm|baddbmm|matmul|linear)$|gemm|nvjet|cutlass", re.IGNORECASE)),
)


def time_by_kind(trainee: Trainee, examples: Sequence[TrainingExample], vocab_size: int) -> dict[str, float]:
    """Seconds of one step by kind: on a GPU the kernels', else the operators' own on the CPU.

    Work on tensors with a dimension of the vocabulary's size is the LM head and the loss.
    """
    cuda = trainee.runner.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU] + ([torch.profiler.ProfilerActivity.CUDA] if cuda else [])
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        trainee.step(examples)
        if cuda:
            torch.cuda.synchronize()
    seconds = dict.fromkeys(("LM head and loss", *(name for name, _ in _KINDS), "the rest"), 0.0)
    for event in profile.key_averages(group_by_input_shape=True):
        if cuda and not str(event.device_type).endswith("CPU"):
            # A kernel's time is counted with the operator that started it.
            continue
        own_us = event.self_device_time_total if cuda else event.self_cpu_time_total
        seconds[_kind_of(event, vocab_size)] += own_us / 1e6
    return seconds


def _kind_of(event: Any, vocab_size: int) -> str:
    name = str(event.key)
    kind = next((kind for kind, pattern in _KINDS if pattern.search(name)), "the rest")
    is_wide = "embedding" not in name and any(vocab_size in shape for shape in event.input_shapes if isinstance(shape, list))
    is_head = is_wide or "HeadLoss" in name
    return "LM head and loss" if is_head and kind != "optimiser and clipping" else kind


def profile_table(title: str, profiles: Mapping[str, Mapping[str, float]]) -> str:
    """A row a way: its milliseconds by kind of work."""
    kinds = list(next(iter(profiles.values())))
    rows = [
        [way, *(f"{seconds[kind] * 1e3:.1f}" for kind in kinds), f"{sum(seconds.values()) * 1e3:.1f}"]
        for way, seconds in profiles.items()
    ]
    return table([title, *kinds, "all"], rows)
