"""Generation with a real tiny model: prompts as trained with, answers by id, reasons for what can't be asked; exposure."""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from eval.databases import Databases
from eval.evaluate import judge_predictions
from eval.generate import answer_questions, generate_predictions
from eval.metrics.exposure import measure, requests, score_answers
from kidcore.config.config import EngineSettings, EvalSettings, IngestSettings
from kidcore.models import tokenizers
from kidcore.models.backends.base import Backend
from kidcore.models.backends.select import open_backend
from kidcore.models.prompts import PromptBuilder
from kidcore.sql.answers import read_answer
from kidcore.sql.datasets import DataSet


@pytest.fixture(scope="module")
def backend(tiny_model: Path) -> Iterator[Backend]:
    backend = open_backend(tiny_model, EngineSettings(backend="transformers"), max_top_k=16, max_length=512)
    yield backend
    backend.close()


def test_predictions_come_by_id_and_are_judged(backend: Backend, tiny_model: Path, dataset: DataSet, tmp_path: Path) -> None:
    tokenizer = tokenizers.load_tokenizer(tiny_model)
    builder = PromptBuilder.of(IngestSettings(), tokenizer)
    examples = dataset.examples[:12]
    seen: list[tuple[int, int]] = []

    def note(done: int, total: int, under_way: int = 0, /) -> None:
        assert done + under_way <= total == 12
        seen.append((done, under_way))

    made = generate_predictions(backend, builder, examples, dataset.database, 8, progress=note)
    assert list(made.sql) == [example.example_id for example in examples]
    assert max(begun for _done, begun in seen) == 12, "the prompts that are read together are begun together"
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (12, 0)
    prompts = [builder.build(dataset.database(e.db_id), e.db_id, e.question, e.evidence).ids for e in examples]
    stop = sorted({tokenizers.eos_id(tokenizer), *tokenizers.special_ids(tokenizer)})
    direct = [tokenizer.decode(ids, skip_special_tokens=True) for ids in backend.generate(prompts, 8, stop)]
    assert list(made.said.values()) == direct
    assert list(made.sql.values()) == list(map(read_answer, direct))
    result = judge_predictions(examples, made.sql, Databases(dataset.database), EvalSettings(), tmp_path, made.reasons)
    assert result.summary["examples"] == 12


def test_what_cannot_be_asked_has_a_reason(backend: Backend, tiny_model: Path, dataset: DataSet, tmp_path: Path) -> None:
    tokenizer = tokenizers.load_tokenizer(tiny_model)
    examples = dataset.examples[:3]
    short = PromptBuilder.of(IngestSettings(max_prompt_tokens=16), tokenizer)
    long = generate_predictions(backend, short, examples, dataset.database, 8)
    assert long.sql == {}
    assert all(reason.startswith("prompt too long") for reason in long.reasons.values())
    builder = PromptBuilder.of(IngestSettings(), tokenizer)
    lost = generate_predictions(backend, builder, examples, lambda db_id: tmp_path / db_id, 8)
    assert set(lost.reasons.values()) == {"database missing"}


def test_divergences_of_a_model_from_itself_are_nothing(backend: Backend) -> None:
    # No error a step on gold: the excess over it is undefined, and must not come out as a number.
    prompts = [[5, 6, 7], [8, 9]]
    golds, own = (
        score_answers(backend, requests(prompts, answers), top_k=16) for answers in ([[10, 11], [12]], [[13], [14, 15]])
    )
    assert math.isnan(measure(list(zip(golds, golds, strict=True)), list(zip(own, own, strict=True))))


class _Says:
    """A backend's part in an answer: tokens are given until one that ends it."""

    max_length = 512

    def __init__(self, tokenizer: Any, text: str) -> None:
        self.ids = tokenizer.encode(text, add_special_tokens=False)

    def generate(self, prompts: Sequence[Sequence[int]], _longest: int, stop_ids: Sequence[int], *_: object) -> Any:
        return [list(takewhile(lambda index: index not in stop_ids, self.ids)) for _ in prompts]


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>analysis<|message|>We need SELECT 0<|end|><|start|>assistant<|channel|>final<|message|>SELECT 1<|return|>no",
        "[THINK]SELECT 0[/THINK]SELECT 1<|return|>no",
        "<|START_THINKING|>SELECT 0<|END_THINKING|><|START_RESPONSE|>SELECT 1<|END_RESPONSE|>no",
    ],
)
def test_control_tokens_between_thinking_and_answer_end_nothing(tiny_model: Path, text: str) -> None:
    tokenizer = tokenizers.load_tokenizer(tiny_model)
    marks = re.findall(r"<\|\w+\|>|\[/?THINK\]", text)
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(marks))})
    assert answer_questions(_Says(tokenizer, text), tokenizer, [[5]], 64) == ["SELECT 1"]  # type: ignore[arg-type]
