"""A student's shape in; a larger teacher, turns of what it costs a build, and lessons of the online methods out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from bench.students import Lessons, Load, Shape, Trainee, make_model, teacher_of
from bench.timing import Cost, Stopwatch, Turn
from kidcore.config.stage_settings import MaskSettings, PredictSettings, ScoreSettings
from kidcore.models.backends.base import ScoreRequest
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.sources import ModelSource
from kidcore.models.tokenizers import Tokens
from train.data.examples import TrainingExample
from train.online.online import Online
from train.online.setup import OnlineSetup

BATCH_TOKENS = 8192
MAX_LENGTH = 4096
TOP_K = 64
_RUN_STEPS = 1000
"""Steps of the run that an online method believes to be in: imitkd's share of gold falls over a run."""


@dataclass(frozen=True)
class BenchTeacher:
    """The teacher of one student: made anew for each turn, so that it is in memory only where it is needed."""

    shape: Shape
    device: str
    folder: Path
    """The same weights, for what loads its own."""

    def make(self) -> Any:
        """The model, frozen; in bfloat16 on a GPU, as it would be served."""
        model = make_model(self.shape, self.device, seed=1).eval().requires_grad_(False)
        return model.to(torch.bfloat16) if self.device == "cuda" else model

    def scores(self, load: Load, steps: list[list[TrainingExample]], passes: int) -> Turn:
        """What a build pays to score each example's last branch `passes` times; a masked sequence is as long as a filled one."""
        return partial(_score_turn, self, load, steps, passes)

    def answers(self, load: Load, steps: list[list[TrainingExample]], new_tokens: int) -> Turn:
        """What a build pays for the teacher's own answer to each prompt (seqkd)."""
        return partial(_answer_turn, self, load, steps, new_tokens)

    def lessons(self, new_tokens: int, trainee: Trainee) -> Lessons:
        """What an online method makes of the gold examples of a step, with this teacher and the trainee as it is."""
        settings = trainee.settings.model_copy(update={"rollout_tokens": new_tokens})
        source = ModelSource(self.shape.name, self.folder, "bench", MAX_LENGTH, self.shape.vocab_size, "Qwen2ForCausalLM", "")
        # The tokenizer's special tokens: pad, eos, mask, unknown.
        tokens = Tokens(mask_id=2, eos_id=1, vocab_size=self.shape.vocab_size, banned=frozenset(range(4)))
        setup = OnlineSetup(
            source, "auto", tokens, (1,), MAX_LENGTH, BATCH_TOKENS, ScoreSettings(), MaskSettings(), PredictSettings()
        )
        runner = trainee.runner
        online = Online(settings, setup, trainee.model, _RUN_STEPS, device=runner.device, autocast_dtype=runner.autocast_dtype)
        return lambda done, examples: online.prepare(1 + round(done * (_RUN_STEPS - 1)), examples).examples


@contextmanager
def open_teacher(student: Shape, device: str) -> Iterator[BenchTeacher]:
    """The teacher of `student`."""
    logging.disable_progress_bar()
    with TemporaryDirectory() as folder:
        teacher = BenchTeacher(teacher_of(student), device, Path(folder))
        teacher.make().save_pretrained(folder)
        yield teacher


def _score_turn(teacher: BenchTeacher, load: Load, steps: list[list[TrainingExample]], passes: int, measure_memory: bool) -> Cost:
    del measure_memory

    def work(engine: TransformersBackend, step: Sequence[TrainingExample]) -> None:
        branches = [example.branches[-1] for example in step]
        requests = [ScoreRequest(np.append(x.tokens, np.int32(x.eos_id)).astype(np.int32), x.start) for x in branches]
        for _ in range(passes):
            assert sum(1 for _ in engine.score(requests, TOP_K)) == len(step)

    return _engine_turn(teacher, load, steps, work)


def _answer_turn(
    teacher: BenchTeacher, load: Load, steps: list[list[TrainingExample]], new_tokens: int, measure_memory: bool
) -> Cost:
    del measure_memory

    def work(engine: TransformersBackend, step: Sequence[TrainingExample]) -> None:
        prompts = [example.branches[0].tokens[: example.branches[0].start].tolist() for example in step]
        assert sum(1 for _ in engine.generate(prompts, new_tokens, [1])) == len(step)

    return _engine_turn(teacher, load, steps, work)


def _engine_turn(teacher: BenchTeacher, load: Load, steps: list[list[TrainingExample]], work: Any) -> Cost:
    """All steps at one go, as a build asks for whole shards; twice, and the second time counts."""
    engine = TransformersBackend.around(teacher.make(), batch_tokens=BATCH_TOKENS, max_length=MAX_LENGTH)
    examples = [example for step in steps for example in step]
    work(engine, examples)
    watch = Stopwatch(load.device)
    watch.start()
    work(engine, examples)
    watch.stop()
    return Cost(len(examples), watch.wall_s, watch.cpu_s, float("nan"))
