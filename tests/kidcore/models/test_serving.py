"""A student's folder gives other programs the tokens of training, or is refused."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from kidcore.config.config import IngestSettings
from kidcore.errors import KidpipeError
from kidcore.models import serving
from kidcore.models.prompts import PROMPT_FOLDER, PromptBuilder
from kidcore.models.serving import ServedPrompt, write_serving_files
from kidcore.models.tokenizers import first_difference, load_tokenizer
from kidpipe.demo.models import train_tokenizer
from tests.kidcore.models.families import FAMILIES, TEXTS, qwen

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SCHEMA = "database: d\nt: a int, b text\n"


def saved(folder: Path, tokenizer: Any, model_type: str) -> Path:
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    return folder


def student(model: Path, companions: Path, folder: Path) -> Path:
    """What a run saves beside the weights."""
    shutil.copytree(model, folder)
    shutil.copytree(companions, folder, dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama", "gemma", "mistral", "gpt2"])
@pytest.mark.parametrize("trust", [False, True])
def test_a_tokenizer_of_ones_own_survives_autotokenizer(tmp_path: Path, model_type: str, trust: bool) -> None:
    # Its digits and underscores are cut otherwise than in any of these models' own tokenizers.
    model = saved(tmp_path / "model", train_tokenizer([*TEXTS, "T1.stu_id AS T2 2014"], 400), model_type)
    ours = load_tokenizer(model)
    write_serving_files(PromptBuilder.of(IngestSettings(), ours), model, tmp_path / "beside")
    served = AutoTokenizer.from_pretrained(student(model, tmp_path / "beside", tmp_path / "out"), trust_remote_code=trust)
    assert first_difference(ours, served) is None
    assert (served.eos_token, served.pad_token) == (ours.eos_token, ours.pad_token)


def test_defaults_of_a_start_do_not_make_other_answers_of_a_students(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", qwen(), "llama")
    ours = load_tokenizer(model)
    builder, end, path = PromptBuilder.of(IngestSettings(), ours), ours.eos_token_id, model / "generation_config.json"
    harmless = {"eos_token_id": [end, 0], "do_sample": True, "temperature": 0.7, "top_k": 20, "min_length": 0}
    cases: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
        (harmless, None),
        (harmless | {"repetition_penalty": 1.1, "suppress_tokens": [5]}, harmless),
        ({"eos_token_id": end + 1}, {"eos_token_id": [end, end + 1]}),
        ({"eos_token_id": end}, None),
        ({}, {"eos_token_id": [end]}),
    ]
    for number, (start, wanted) in enumerate(cases):
        path.write_text(json.dumps(start), encoding="utf-8")
        write_serving_files(builder, model, tmp_path / f"{number}")
        written = tmp_path / f"{number}" / path.name
        assert (json.loads(written.read_text()) if written.is_file() else None) == wanted
    write_serving_files(builder, model, tmp_path / "turn", end=1)
    assert json.loads((tmp_path / "turn" / path.name).read_text()) == {"eos_token_id": [1, end]}, "a chat's turn ends otherwise"
    path.unlink()
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": end + 1}), encoding="utf-8")
    write_serving_files(builder, model, tmp_path / "none")
    assert json.loads((tmp_path / "none" / path.name).read_text()) == {"eos_token_id": [end, end + 1]}


def test_a_student_of_a_student_is_saved_as_well(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", train_tokenizer([*TEXTS, "T1.stu_id AS T2 2014"], 400), "qwen2")
    ours = load_tokenizer(model)
    write_serving_files(PromptBuilder.of(IngestSettings(), ours), model, tmp_path / "beside")
    first = student(model, tmp_path / "beside", tmp_path / "first")
    write_serving_files(PromptBuilder.of(IngestSettings(), load_tokenizer(first)), first, tmp_path / "again")
    for trust in (False, True):
        # Only what is a tokenizer's file goes from one to the other; the rest is written anew.
        second = student(model, tmp_path / "again", tmp_path / f"second-{trust}")
        served = AutoTokenizer.from_pretrained(second, trust_remote_code=trust)
        assert first_difference(ours, served) is None


def test_a_tokenizer_that_autotokenizer_loads_unchanged_is_left_alone(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", qwen(), "llama")
    write_serving_files(PromptBuilder.of(IngestSettings(), load_tokenizer(model)), model, tmp_path / "beside")
    assert not (tmp_path / "beside" / "tokenization_student.py").exists()
    assert "auto_map" not in json.loads((tmp_path / "beside" / "tokenizer_config.json").read_text())


def test_a_student_that_would_read_other_tokens_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path / "model", train_tokenizer([*TEXTS, "T1.stu_id AS T2 2014"], 400), "qwen2")
    monkeypatch.setattr(serving, "_OWN_CODE", {})
    with pytest.raises(KidpipeError, match="AutoTokenizer gives other tokens than training used"):
        write_serving_files(PromptBuilder.of(IngestSettings(), load_tokenizer(model)), model, tmp_path / "beside")


@pytest.mark.parametrize("settings", [{}, {"system": "Be exact."}, {"chat": True}, {"chat": True, "system": "Be exact."}])
@pytest.mark.parametrize("template", ["compact", "ddl", "values"])
def test_a_chat_message_gives_the_tokens_of_training(tmp_path: Path, settings: dict[str, Any], template: str) -> None:
    tokenizer = qwen()
    tokenizer.chat_template = CHATML
    model = saved(tmp_path / "model", tokenizer, "qwen2")
    builder = PromptBuilder.of(IngestSettings(template=template, **settings), load_tokenizer(model))
    write_serving_files(builder, model, tmp_path / "beside", [ServedPrompt(SCHEMA, "a question of the data?")])
    served = AutoTokenizer.from_pretrained(student(model, tmp_path / "beside", tmp_path / "out"))
    for schema in (SCHEMA, SCHEMA.rstrip()):  # some programs strip what they are given
        messages = ServedPrompt(schema, "how  many\nare there?").messages()
        got = served.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, evidence="a  hint")
        asked = builder.definition.template.question("how many are there?", "a hint", "sqlite")
        assert got == builder.schema_ids(SCHEMA) + builder.question_ids(asked)
    whole = [{"role": "user", "content": SCHEMA + asked}]
    alone = served.apply_chat_template(whole, add_generation_prompt=True, return_dict=False)
    assert alone == builder.schema_ids(SCHEMA) + builder.question_ids(asked)


def test_a_begin_of_sequence_is_written_once(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", FAMILIES["llama3"](), "llama")
    builder = PromptBuilder.of(IngestSettings(), load_tokenizer(model))
    write_serving_files(builder, model, tmp_path / "beside")
    served = AutoTokenizer.from_pretrained(student(model, tmp_path / "beside", tmp_path / "out"))
    ids = served.apply_chat_template(ServedPrompt(SCHEMA, "q?").messages(), add_generation_prompt=True, return_dict=False)
    assert ids.count(served.bos_token_id) == 1
    assert ids[0] == served.bos_token_id


@pytest.mark.parametrize("name", ["unigram", "llama2"])
def test_spaces_that_pieces_begin_with_are_written_in_a_whole_prompt(tmp_path: Path, name: str) -> None:
    model = saved(tmp_path / "model", FAMILIES[name](), "llama")
    builder = PromptBuilder.of(IngestSettings(), load_tokenizer(model))
    write_serving_files(builder, model, tmp_path / "beside")
    served = AutoTokenizer.from_pretrained(student(model, tmp_path / "beside", tmp_path / "out"))
    ids = served.apply_chat_template(ServedPrompt(SCHEMA, "how many?").messages(), add_generation_prompt=True, return_dict=False)
    asked = builder.definition.template.question("how many?", "", "sqlite")
    assert ids == builder.schema_ids(SCHEMA) + builder.question_ids(asked)


def test_where_pieces_and_whole_differ_no_chat_template_is_saved_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A template that ends its schema within a word: tokens of the whole run across the seam.
    folder = tmp_path / "template"
    folder.mkdir()
    (folder / "schema.jinja").write_text("database: {{ db_id }} sel", encoding="utf-8")
    (folder / "question.jinja").write_text("ect {{ question }}\n", encoding="utf-8")
    model = saved(tmp_path / "model", qwen(), "llama")
    monkeypatch.setattr(logging.getLogger("kidcore"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="kidcore"):
        builder = PromptBuilder.of(IngestSettings(template=str(folder)), load_tokenizer(model))
        write_serving_files(builder, model, tmp_path / "beside", [ServedPrompt("database: d sel", "count(*)")])
    assert "no chat template is saved" in caplog.text
    assert not (tmp_path / "beside" / "chat_template.jinja").exists()
    assert (tmp_path / "beside" / PROMPT_FOLDER / "prompt.json").is_file()


def test_a_student_made_into_a_teacher_is_asked_in_chat_as_it_was_trained(tmp_path: Path) -> None:
    tokenizer = qwen()
    tokenizer.chat_template = CHATML
    model = saved(tmp_path / "model", tokenizer, "qwen2")
    builder = PromptBuilder.of(IngestSettings(chat=True, system="Be exact."), load_tokenizer(model))
    write_serving_files(builder, model, tmp_path / "beside")
    again = PromptBuilder.of(IngestSettings(chat=True), load_tokenizer(student(model, tmp_path / "beside", tmp_path / "out")))
    assert again.definition.frame == builder.definition.frame
