"""Generation with a real tiny model: prompts as trained with, answers by id, reasons for what can't be asked; exposure."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from eval.databases import Databases
from eval.evaluate import judge_predictions
from eval.generate import generate_predictions
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
    seen: list[int] = []
    made = generate_predictions(backend, builder, examples, dataset.database, 8, progress=lambda done, _total: seen.append(done))
    assert list(made.sql) == [example.example_id for example in examples]
    assert seen == list(range(1, 13))
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
