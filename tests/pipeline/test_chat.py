"""`ingest.chat = auto`: who decides, that it is decided once, and that keys hold what came out."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from kidcore.config.config import IngestSettings
from kidcore.models.prompts import PromptBuilder, answer_end
from kidcore.models.tokenizers import eos_id, load_tokenizer
from kidcore.sql.datasets import DataSet
from kidcore.store.frames import read_frame
from pipeline import chat
from pipeline.context import open_context
from pipeline.outline import SAMPLE
from tests.conftest import configure
from tests.pipeline.running import made, run_build, store_of

TEMPLATE = (
    "{% for m in messages %}{{ '<|turn|>' + m.role + '\n' + m.content + '<|over|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)


def chat_model(base: Path, folder: Path, dataset: DataSet, taught: bool | None = None) -> Path:
    """The tiny model with a chat template of two control tokens of its own; taught some answers in a chat, or plainly, or not."""
    shutil.copytree(base, folder)
    tokenizer = load_tokenizer(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|over|>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer))
    if taught is not None:
        teach(model, IngestSettings(chat=taught), tokenizer, dataset)
    model.save_pretrained(folder)
    return folder


def teach(model: Any, settings: IngestSettings, tokenizer: Any, dataset: DataSet) -> None:
    builder, end = PromptBuilder.of(settings, tokenizer), answer_end(settings, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for example in dataset.examples[:20]:
        prompt = builder.build(dataset.database(example.db_id), example.db_id, example.question).ids
        ids = torch.tensor([[*prompt, *builder.sql(example.gold_sql).ids, end]])
        labels = ids.clone()
        labels[0, : len(prompt)] = -100
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def auto(settings: dict[str, object]) -> dict[str, object]:
    return settings | {"ingest.chat": "auto", "mask.views": 1}


def choose(settings: dict[str, object], *, may_ask: bool = True, **changes: object) -> tuple[Any, Any]:
    context = open_context(configure(settings, **changes), may_ask=may_ask)
    try:
        return context.chat, context.config.ingest
    finally:
        context.close()


def test_without_a_chat_template_nobody_is_asked(auto: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat.ChatQuestion, "_ask", lambda *_: pytest.fail("an engine was started"))
    before = run_build(configure(auto, ingest__chat=False), until="ingest")
    choice, ingest = choose(auto)
    assert (choice.chat, choice.is_decided, ingest.chat) == (False, True, False)
    again = run_build(configure(auto), until="ingest")
    assert (made(again), again.manifest.digest) == ({}, before.manifest.digest), "as an explicit false"


def test_the_model_is_asked_once_and_keys_hold_what_came_out(
    auto: dict[str, object], tiny_model: Path, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = chat_model(tiny_model, tmp_path / "model", dataset)
    auto |= {"teacher.model": str(model), "train.student": str(model), "ingest.max_prompt_tokens": 400}
    guess, _ = choose(auto, may_ask=False)
    assert (guess.chat, guess.is_decided) == (False, False)
    choice, ingest = choose(auto)
    assert choice.plain_on_gold["answers"] == choice.chat_on_gold["answers"] == SAMPLE
    by_answer = [x["nll_sum"] + x["stop_nll_sum"] for x in (choice.plain_on_gold, choice.chat_on_gold)]
    assert choice.chat == ingest.chat == (by_answer[1] < by_answer[0])
    assert "NLL" in str(choice)

    monkeypatch.setattr(chat.ChatQuestion, "_ask", lambda *_: pytest.fail("the model was asked again"))
    assert choose(auto) == choose(auto, may_ask=False) == (choice, ingest)
    result = run_build(configure(auto), until="gold_score")
    assert result.manifest.stages["ingest"].settings["ingest.chat"] is choice.chat
    same = run_build(configure(auto, ingest__chat=choice.chat), until="gold_score")
    assert (made(same), same.manifest.digest) == ({}, result.manifest.digest), "as the explicit value"
    assert made(run_build(configure(auto, ingest__chat=not choice.chat), until="ingest")) != {}


@pytest.mark.parametrize("taught", [True, False])
def test_the_prompt_that_the_model_was_taught_is_taken(
    auto: dict[str, object], tiny_model: Path, dataset: DataSet, tmp_path: Path, taught: bool
) -> None:
    model = chat_model(tiny_model, tmp_path / "model", dataset, taught)
    choice, _ = choose(auto, teacher__model=str(model), train__student=str(model), ingest__max_prompt_tokens=400)
    assert choice.chat is taught
    better, worse = (choice.chat_on_gold, choice.plain_on_gold) if taught else (choice.plain_on_gold, choice.chat_on_gold)
    assert better["stop_probability"] > worse["stop_probability"]


def test_added_questions_ask_again_and_plans_guess_until_then(
    auto: dict[str, object], world: Path, tiny_model: Path, dataset: DataSet, tmp_path: Path
) -> None:
    model = chat_model(tiny_model, tmp_path / "model", dataset)
    data = tmp_path / "grown"
    shutil.copytree(world, data)
    auto |= {"teacher.model": str(model), "train.student": str(model), "ingest.max_prompt_tokens": 400, "data.path": str(data)}
    choice, _ = choose(auto)
    rows = json.loads((data / "train_spider.json").read_text())
    more = [row | {"question": f"{row['question']} ({number})"} for number in range(9) for row in rows]
    (data / "train_spider.json").write_text(json.dumps(rows + more))
    guess, _ = choose(auto, may_ask=False)
    assert (guess.chat, guess.is_decided) == (choice.chat, False)
    assert choose(auto)[0].is_decided


def test_a_chat_answer_ends_with_the_end_of_its_turn(
    auto: dict[str, object], tiny_model: Path, dataset: DataSet, tmp_path: Path
) -> None:
    model = chat_model(tiny_model, tmp_path / "model", dataset)
    tokenizer = load_tokenizer(model)
    over = tokenizer.convert_tokens_to_ids("<|over|>")
    assert over != eos_id(tokenizer)
    assert answer_end(IngestSettings(chat=True), tokenizer) == over
    assert answer_end(IngestSettings(), tokenizer) == eos_id(tokenizer)
    config = configure(
        auto, ingest__chat=True, teacher__model=str(model), train__student=str(model), ingest__max_prompt_tokens=400
    )
    result = run_build(config, until="gold_score")
    assert result.manifest.facts.eos_id == over
    assert result.manifest.stages["gold_score"].settings["answer.end"] == over
    frame = read_frame(store_of(config), result.manifest, "gold_score", ["gold_ids", "actual_logprob"])
    assert (frame["gold_ids"].list.len() + 1 == frame["actual_logprob"].list.len()).all()
