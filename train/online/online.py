"""The examples of a step and the student as it is in; what the step teaches, made by the student and scored by the teacher, out.

For the methods that ask a teacher during training (kidcore.method.methods). The rules of masking, filling, scoring and cutting
are those of the build, so that the same sequence gets the same numbers here and there.
"""

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kidcore.config.seeds import row_rng
from kidcore.config.train_settings import TrainSettings
from kidcore.method.filling import fill, predictions, proposal, put, request, verify, wanted
from kidcore.method.masking import choose
from kidcore.method.methods import METHODS, gold_share, gold_weight, looks_at
from kidcore.method.topk import cut
from kidcore.models.backends.base import Backend, Sampling, ScoreRequest
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.backends.vllm_student import VllmStudent
from kidcore.models.trees.trunk import causal_of
from train.data.examples import Branch, Int32, TeacherTopK, TrainingExample
from train.data.sampler import hashed, is_drawn
from train.online.rollouts import hand_over, require_same_answers
from train.online.setup import OnlineSetup
from train.student.ranks import Ranks


@dataclass(frozen=True)
class PreparedStep:
    """What a step teaches, and what it took to make."""

    examples: list[TrainingExample]
    figures: Mapping[str, float | int]


@dataclass(frozen=True, slots=True)
class _Lesson:
    """One SQL sequence of an example: to imitate, to agree with the teacher on, or both."""

    sql: Int32
    is_imitated: bool
    is_scored: bool
    is_gold: bool = False


class Online:
    """A frozen teacher beside the student of a run."""

    def __init__(
        self,
        settings: TrainSettings,
        setup: OnlineSetup,
        student: nn.Module,
        num_steps: int,
        *,
        device: torch.device,
        autocast_dtype: torch.dtype | None,
        refresh: Callable[[], None] = lambda: None,
        engine: VllmStudent | None = None,
    ) -> None:
        """Load the teacher.

        Args:
            refresh: gives `student`, which makes the sequences, the weights of the moment.
            engine: generates in the student's place.
        """
        self._refresh, self._engine = refresh, engine
        self._settings, self._setup, self._model, self._num_steps = settings, setup, student, num_steps
        self._device, self._autocast_dtype = device, autocast_dtype
        # Whoever fills the holes of a build: here it is the student of the moment.
        self._predict = setup.predict.model_copy(update={"predictor": "student"})
        limits = {"batch_tokens": setup.batch_tokens, "max_length": setup.max_length}
        self._teacher = _open_teacher(setup, device, limits)
        if setup.teacher.served is not None:
            weakref.finalize(self, self._teacher.close)  # threads and connections
        self._held_out: list[list[TrainingExample]] | None = None
        self._student = TransformersBackend.around(causal_of(student), **limits)

    def refresh(self) -> None:
        """Let whatever makes the sequences have the weights of the moment; all processes have to do so together."""
        self._refresh()
        if self._engine is not None:
            hand_over(self._model, self._engine, self._autocast_dtype)
            with self._frozen_student():
                require_same_answers(self._engine, self._student, self._autocast_dtype)

    def prepare(self, step: int, examples: list[TrainingExample]) -> PreparedStep:
        """What step `step`, counted from 1, teaches of `examples`, whose first branches are gold SQL."""
        began = time.perf_counter()
        with self._frozen_student():
            make = self.rollouts if METHODS[self._settings.method].is_on_policy else self.refilled
            made = make(step, examples)
        generated = time.perf_counter()
        lessons = [self._lessons(step, example, sequences) for example, sequences in zip(examples, made, strict=True)]
        prepared = self._score(examples, lessons)
        figures = {
            "generate_seconds": generated - began,
            "teacher_seconds": time.perf_counter() - generated,
            "generated_tokens": sum(len(sql) for sequences in made for sql in sequences),
        }
        return PreparedStep(prepared, figures)

    def held_out(self, batches: Iterable[list[TrainingExample]]) -> list[list[TrainingExample]]:
        """Held-out gold with the teacher's distributions on it, which are asked for once."""
        if self._held_out is None:
            gold = [(batch, [[_Lesson(_sql(example), True, True, True)] for example in batch]) for batch in batches]
            self._held_out = [self._score(*pair) for pair in gold]
        return self._held_out

    def rollouts(self, step: int, examples: Sequence[TrainingExample]) -> list[list[Int32]]:
        """The student's own answer to each prompt drawn for it, without EOS; none for the others.

        An answer that reaches the limit loses its last token: the position that predicts it is its last supervised one,
        where that of a finished answer predicts the EOS.
        """
        settings = self._settings
        share = settings.imperfect_share
        if looks_at(settings.method, "oracle_end"):
            share = 1.0 - settings.oracle_end ** (step / self._num_steps)
        drawn = [is_drawn(share, "rollout", settings.seed, step, example.example_id) for example in examples]
        prompts = [_prompt(example) for example, is_asked in zip(examples, drawn, strict=True) if is_asked]
        # The seed of an answer is made of this one and its prompt: no answer depends on its neighbours.
        sampling = Sampling(settings.rollout_temperature, hashed("rollout", settings.seed, step))
        answers = (self._engine or self._student).generate(
            [prompt.tolist() for prompt in prompts],
            settings.rollout_tokens,
            self._setup.stop_ids,
            sampling if settings.rollout_temperature > 0 else None,
        )
        finished = iter([self._without_cut_end(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)])
        return [[next(finished)] if is_asked else [] for is_asked in drawn]

    def _without_cut_end(self, prompt: Int32, answer: list[int]) -> Int32:
        # An output layer padded beyond the vocabulary draws ids that are no tokens, and that the teacher may have no row for.
        strange = next((place for place, token in enumerate(answer) if token >= self._setup.tokens.vocab_size), None)
        if strange is not None:
            return np.array(answer[:strange], dtype=np.int32)
        limit = min(self._settings.rollout_tokens, self._setup.max_length - len(prompt))
        return np.array(answer[:-1] if len(answer) == limit else answer, dtype=np.int32)

    def refilled(self, step: int, examples: Sequence[TrainingExample]) -> list[list[Int32]]:
        """Gold SQL with fresh holes that the student filled, `views_per_step` of each example drawn for it.

        View j of step s is masked as the build masks view s * views_per_step + j.
        """
        settings = self._settings
        made: list[list[Int32]] = [[] for _ in examples]
        drawn = [
            row
            for row, example in enumerate(examples)
            if is_drawn(settings.imperfect_share, "imperfect", settings.seed, step, example.example_id)
        ]
        chosen = [examples[row] for row in drawn]
        logprobs: Sequence[NDArray[np.float32] | None] = [None] * len(chosen)
        if self._setup.mask.strategy in ("hard", "easy"):
            logprobs = self._gold_logprobs(chosen)
        for number in range(settings.views_per_step):
            view = step * settings.views_per_step + number
            masks = [self._masked(*pair, view, number == 0) for pair in zip(chosen, logprobs, strict=True)]
            for row, sql in zip(drawn, self._fill(chosen, masks, view), strict=True):
                made[row].append(sql)
        return made

    def _masked(self, example: TrainingExample, logprobs: NDArray[np.float32] | None, view: int, is_first: bool) -> Int32:
        mask = self._setup.mask
        rng = row_rng(mask.seed, f"mask.{mask.strategy}", example.example_id, view)
        return choose(mask, len(_sql(example)), rng, logprobs=logprobs, is_first=is_first)

    def _gold_logprobs(self, examples: Sequence[TrainingExample]) -> list[NDArray[np.float32]]:
        """How sure the student is of each gold token."""
        requests = [ScoreRequest(example.branches[0].tokens, example.branches[0].start) for example in examples]
        return [answer.actual_logprob for answer in self._student.score(requests, 1)]

    def _fill(self, examples: Sequence[TrainingExample], masks: Sequence[Int32], view: int) -> list[Int32]:
        setup = self._setup
        requests = [
            request(_prompt(example), _sql(example), masked, setup.tokens.mask_id)
            for example, masked in zip(examples, masks, strict=True)
        ]
        top_k = wanted(self._predict.top_k, setup.tokens, self._student.vocab_size)
        made: list[Int32] = []
        for example, masked, answer in zip(examples, masks, self._student.score(requests, top_k), strict=True):
            gold = _sql(example)
            holes = predictions(answer, masked, self._predict.top_k, setup.tokens)
            rng = row_rng(self._predict.seed, "predict", example.example_id, view)
            made.append(put(gold, masked, fill(self._predict, holes, gold[masked], rng)))
        return self._verified(examples, masks, made, view) if self._predict.fill == "verify" else made

    def _verified(
        self, examples: Sequence[TrainingExample], masks: Sequence[Int32], proposed: Sequence[Int32], view: int
    ) -> list[Int32]:
        """What the teacher makes of the student's proposals, by the rules of the build's stage `verify`."""
        tokens, asked = self._setup.tokens, max(self._setup.verify.top_k, self._predict.top_k)
        requests = [proposal(_prompt(example), *pair) for example, *pair in zip(examples, proposed, masks, strict=True)]
        answers = self._teacher.score(requests, wanted(asked, tokens, self._teacher.vocab_size))
        made: list[Int32] = []
        for example, masked, sql, answer in zip(examples, masks, proposed, answers, strict=True):
            gold, holes = _sql(example), predictions(answer, masked, asked, tokens)
            rng = row_rng(self._predict.seed, "verify", example.example_id, view)
            filled, _ = verify(self._predict, self._setup.verify.top_k, sql[masked], holes, gold[masked], rng)
            made.append(put(gold, masked, filled))
        return made

    def _lessons(self, step: int, example: TrainingExample, sequences: list[Int32]) -> list[_Lesson]:
        """Gold to imitate where the method does, imperfect sequences to be scored; without any of those, gold is scored."""
        settings = self._settings
        is_imitated = gold_weight(settings) > 0
        is_scored = not sequences or is_drawn(gold_share(settings), "gold", settings.seed, step, example.example_id)
        gold = [_Lesson(_sql(example), is_imitated, is_scored, True)] if is_imitated or is_scored else []
        return gold + [_Lesson(sql, False, True) for sql in sequences]

    def _score(self, examples: Sequence[TrainingExample], lessons: Sequence[Sequence[_Lesson]]) -> list[TrainingExample]:
        """The examples with a branch a lesson, the teacher's distributions on those that are scored."""
        setup, end = self._setup, np.int32(self._setup.tokens.eos_id)
        pairs = [(example, lesson) for example, group in zip(examples, lessons, strict=True) for lesson in group]
        asked = [(_prompt(example), np.append(lesson.sql, end)) for example, lesson in pairs if lesson.is_scored]
        requests = [ScoreRequest(np.concatenate([prompt, sql]).astype(np.int32), len(prompt)) for prompt, sql in asked]
        answers = self._teacher.score(requests, min(setup.score.top_k, self._teacher.vocab_size))
        teachers = iter(
            [
                TeacherTopK(kept.topk_count, kept.topk_ids, kept.topk_logprobs, kept.tail)
                for (_, sql), answer in zip(asked, answers, strict=True)
                for kept in [cut(answer, sql, sql, setup.score.tail_mass, setup.tokens.vocab_size)]
            ]
        )
        return [
            TrainingExample(example.example_id, example.db_id, tuple(self._branch(example, x, teachers) for x in group))
            for example, group in zip(examples, lessons, strict=True)
        ]

    def _branch(self, example: TrainingExample, lesson: _Lesson, teachers: Iterator[TeacherTopK]) -> Branch:
        prompt = _prompt(example)
        tokens = np.concatenate([prompt, lesson.sql]).astype(np.int32)
        teacher = next(teachers) if lesson.is_scored else None
        return Branch(tokens, len(prompt), self._setup.tokens.eos_id, lesson.is_imitated, teacher, lesson.is_gold)

    @contextmanager
    def _frozen_student(self) -> Iterator[None]:
        """The student without dropout, in the precision that it trains in."""
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.autocast(self._device.type, dtype=self._autocast_dtype, enabled=self._autocast_dtype is not None):
                yield
        finally:
            self._model.train(was_training)


def _open_teacher(setup: OnlineSetup, device: torch.device, limits: dict[str, int]) -> Backend:
    """Where it is: beside the student, or behind URLs."""
    if setup.teacher.served is not None:
        served: Backend = setup.teacher.served.open(setup.teacher, setup.engine, setup.max_length)
        return served
    return TransformersBackend(setup.teacher.path, dtype=setup.dtype, device=str(device), verbose=False, **limits)


def prepare_together(online: Online, ranks: Ranks, step: int, examples: list[TrainingExample]) -> PreparedStep:
    """What all processes prepare of a step, each its share of the examples, in the order of `examples`."""
    began = time.perf_counter()
    online.refresh()
    refreshed = time.perf_counter() - began
    mine = examples[ranks.rank :: ranks.world_size]
    shares = ranks.gather(online.prepare(step, mine) if mine else PreparedStep([], {}))
    figures: dict[str, float | int] = {}
    for name in {name: None for share in shares for name in share.figures}:
        values = [share.figures.get(name, 0) for share in shares]
        # Tokens add up; the step takes as long as the slowest process.
        figures[name] = sum(values) if name.endswith("_tokens") else max(values)
    figures["generate_seconds"] = figures.get("generate_seconds", 0.0) + refreshed
    return PreparedStep([shares[i % len(shares)].examples[i // len(shares)] for i in range(len(examples))], figures)


def _prompt(example: TrainingExample) -> Int32:
    gold = example.branches[0]
    return gold.tokens[: gold.start]


def _sql(example: TrainingExample) -> Int32:
    gold = example.branches[0]
    return gold.tokens[gold.start :]
