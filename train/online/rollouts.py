"""Settings and the folder that a student starts from in; a vLLM engine that answers for the student while it trains out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.core_model_loading import revert_weight_conversion

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Backend, ScoreRequest
from kidcore.models.backends.vllm_student import VllmStudent
from kidcore.models.sources import read_source
from kidcore.models.trees.trunk import causal_of
from train.online.setup import OnlineSetup
from train.step import autocast_dtype
from train.student.adapters import merged_state

_FARTHEST = {torch.float32: 1e-2, torch.bfloat16: 0.3}
"""Mean distance of log-probabilities that rounding does not explain. Measured: 1e-6, and 0.02 in bfloat16."""


@contextmanager
def open_engine(
    settings: TrainSettings, online: "OnlineSetup | None", student: Path, device: torch.device
) -> Iterator[VllmStudent | None]:
    """The engine that a run generates with, holding the student as it is stored, and closed in any case; None without one."""
    if online is None or settings.rollout_backend != "vllm":
        yield None
        return
    try:
        engine = VllmStudent(
            student,
            # One process trains, on one GPU, and the engine is in it.
            online.engine.model_copy(update={"device": device.type, "tensor_parallel": 1}),
            dtype=str(autocast_dtype(settings, device) or torch.float32).removeprefix("torch."),
            max_top_k=8,
            max_length=online.engine_length or online.max_length,
            vocab_size=read_source(student).vocab_size,
        )
    except KidpipeError as error:
        fix = "set train.rollout_backend = transformers; where GPU memory is short, lower engine.gpu_memory"
        raise KidpipeError(error.what, where="train.rollout_backend = vllm", fix=fix) from error
    try:
        yield engine
    finally:
        engine.close()


@torch.no_grad()
def hand_over(model: nn.Module, engine: VllmStudent, dtype: torch.dtype | None) -> None:
    """Give the engine the weights of `model` as they are now, adapters added in; the model is left as it is."""
    causal: Any = causal_of(model)
    weights = {name: x.to(dtype or torch.float32) for name, x in merged_state(causal)}
    # Some models are held in other pieces than they are stored in, and vLLM reads the latter.
    engine.load_weights(revert_weight_conversion(causal, weights))


def require_same_answers(engine: VllmStudent, student: Backend, dtype: torch.dtype | None) -> None:
    """Refuse an engine that does not answer as the student does: a copy left behind would teach another objective.

    It costs one short forward pass of each; the first steps of a run, whose weights hardly move, would not show a stale copy.
    """
    length = min(16, engine.max_length)
    tokens = np.random.default_rng(0).integers(0, student.vocab_size, length).astype(np.int32)
    answers = [next(iter(backend.score([ScoreRequest(tokens, 1)], engine.max_top_k))) for backend in (engine, student)]
    gap = float(np.abs(answers[0].logprobs - answers[1].logprobs).mean())
    if not gap <= _FARTHEST[dtype or torch.float32]:
        raise KidpipeError(
            f"vLLM does not take over the weights of this student: log-probabilities differ by {gap:.2g}",
            where="train.rollout_backend = vllm",
            fix="set train.rollout_backend = transformers",
        )
