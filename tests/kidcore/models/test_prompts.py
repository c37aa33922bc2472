"""Prompts as text and ids: built-in templates, templates of one's own, chat frames, and the boundaries between pieces."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kidcore.config.config import IngestSettings
from kidcore.errors import KidpipeError
from kidcore.models import prompts
from kidcore.models.prompts import PromptBuilder, PromptDefinition
from kidcore.models.templates.template import write_schema
from kidcore.models.tokenizers import load_tokenizer
from kidcore.sql.schema_text import read_schema

CHATML = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """CREATE TABLE maker (id INTEGER PRIMARY KEY, "full name" TEXT);
            CREATE TABLE item (id INTEGER PRIMARY KEY, maker_id INT REFERENCES maker, price REAL,
                               FOREIGN KEY (id) REFERENCES maker (id));
            INSERT INTO maker VALUES (1, 'Ann' || char(10) || 'Lee'), (2, NULL);"""
        )
    connection.close()
    return path


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def builder(tokenizer: Any) -> PromptBuilder:
    return PromptBuilder.of(IngestSettings(), tokenizer)


def written(database: Path, template: str, **settings: Any) -> str:
    return write_schema(read_schema(database, "shop", **settings), template)


def test_compact_writes_a_line_a_table_and_resolves_implied_keys(database: Path) -> None:
    assert written(database, "compact") == (
        "database: shop\n"
        'maker: id integer primary key, "full name" text\n'
        "item: id integer primary key, maker_id int, price real\n"
        "foreign keys: item.maker_id = maker.id, item.id = maker.id\n"
    )


def test_ddl_shows_sample_rows_on_one_line_each(database: Path) -> None:
    text = written(database, "ddl", sample_rows=1)
    assert "CREATE TABLE maker" in text
    assert "/* 1 rows of maker:\nid\tfull name\n1\tAnn Lee\n*/" in text


def test_a_missing_or_broken_database_is_said(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="database missing"):
        read_schema(tmp_path / "none.sqlite", "none")
    (tmp_path / "bad.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(KidpipeError, match="database unreadable"):
        read_schema(tmp_path / "bad.sqlite", "bad")


def test_schemas_used_last_are_kept_and_no_more(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_SCHEMAS_KEPT", 2)
    builder = PromptBuilder.of(IngestSettings(), tokenizer)
    first = builder.schema_ids("a: b int\n")
    for schema in ("c: d int\n", "a: b int\n", "e: f int\n"):
        builder.schema_ids(schema)
    assert list(builder._ids) == ["a: b int\n", "e: f int\n"]
    assert builder.schema_ids("a: b int\n") is first


@given(question=st.text(min_size=1, max_size=60), other=st.text(min_size=1, max_size=60))
def test_prompts_on_one_schema_share_its_tokens(builder: PromptBuilder, question: str, other: str) -> None:
    schema = builder.schema_ids("database: d\nt: a int\n")
    first, second = (schema + builder.question_ids(text) for text in (question, other))
    assert first[: len(schema)] == second[: len(schema)] == schema


@given(st.text(min_size=1, max_size=80))
def test_sql_tokens_and_their_starts_cover_the_text(builder: PromptBuilder, sql: str) -> None:
    encoded = builder.sql(sql)
    assert builder.encoder.decode(encoded.ids) == sql
    assert encoded.starts == sorted(encoded.starts)
    assert encoded.starts[0] == 0


def test_a_prompt_is_its_text(builder: PromptBuilder, database: Path) -> None:
    prompt = builder.build(database, "shop", "how  many?\n", "an item")
    assert builder.encoder.decode(prompt.ids) == prompt.text
    assert prompt.text == written(database, "compact") + "question: how many?\nevidence: an item\nsql:\n"
    assert builder.encoder.decode(prompt.ids[: prompt.schema_tokens]) == written(database, "compact")


def test_chat_templates_go_around_both_pieces(tiny_model: Path, database: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = CHATML
    chat = PromptBuilder.of(IngestSettings(chat=True, system="Be exact."), tokenizer)
    prompt = chat.build(database, "shop", "q?", "hint")
    body = written(database, "compact") + "question: q?\nevidence: hint\nsql:\n"
    assert prompt.text == f"[system]Be exact.[end][user]{body}[end][assistant]"
    assert tokenizer.decode(prompt.ids) == prompt.text


def test_a_system_text_without_a_chat_template_is_a_line_before_the_schema(tokenizer: Any, database: Path) -> None:
    plain = PromptBuilder.of(IngestSettings(system="Be exact."), tokenizer).build(database, "shop", "q?")
    assert plain.text.startswith("Be exact.\ndatabase: shop\n")


def test_arguments_reach_the_chat_template(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = CHATML + "{% if enable_thinking is defined and not enable_thinking %}<no thoughts>{% endif %}"
    settings = IngestSettings(chat=True, chat_arguments={"enable_thinking": False})
    assert PromptDefinition.of(settings, tokenizer).frame.after.endswith("[assistant]<no thoughts>")
    with pytest.raises(KidpipeError, match="messages can't be set"):
        PromptDefinition.of(IngestSettings(chat=True, chat_arguments={"messages": "x"}), tokenizer)
    with pytest.raises(KidpipeError, match="no chat template to give arguments to"):
        PromptDefinition.of(IngestSettings(chat_arguments={"enable_thinking": False}), tokenizer)


@pytest.mark.parametrize(
    "clock",
    [
        "{{ strftime_now('%Y-%m-%d %H:%M:%S') }}",
        "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y %H:%M:%S') }}{% else %}26 Jul 2024{% endif %}",
        "{% set day = strftime_now('%A, %d %B') %}Today is {{ day }}.",
    ],
)
def test_a_chat_template_that_asks_for_the_time_stands_still(tiny_model: Path, clock: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = clock + CHATML
    frames = [
        PromptDefinition.of(IngestSettings(chat=True, chat_date=date), tokenizer).frame for date in ("2024-07-26", "2025-01-02")
    ]
    assert "26" in frames[0].before
    assert "02" in frames[1].before
    with pytest.raises(KidpipeError, match="is no date"):
        PromptDefinition.of(IngestSettings(chat=True, chat_date="26.7.2024"), tokenizer)


@pytest.mark.parametrize(
    ("template", "settings", "match"),
    [
        (None, {}, "no chat template"),
        ("{{ raise_exception('no system role') }}", {"system": "x"}, "no system role"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            {"system": "x"},
            "drops or alters the system message",
        ),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", {}, "drops or alters the user's text"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", {}, "drops or alters the user's text"),
        ("{% for i in range(10 ** 9) %}{% endfor %}{{ messages[0].content }}", {}, "Range too big"),
        ("{{ messages[0].content + 1 }}", {}, "refuses the prompt"),
        ("{{ messages[0].content }}{{ range(10 ** 5) | random }}{{ range(10 ** 5) | random }}", {}, "another prompt each time"),
        ("{% for m in messages %}{{ m.content | lower }}{% endfor %}", {}, "drops or alters the user's text"),
    ],
)
def test_chat_templates_that_do_not_serve_are_refused(
    tiny_model: Path, template: str | None, settings: dict[str, Any], match: str
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = template
    with pytest.raises(KidpipeError, match=match):
        PromptDefinition.of(IngestSettings(chat=True, **settings), tokenizer)


def test_a_saved_prompt_builds_the_same(tiny_model: Path, database: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = CHATML
    settings = IngestSettings(template="values", chat=True, system="Ünïcode", column_values=2, fit="tables", max_prompt_tokens=99)
    before = PromptBuilder.of(settings, tokenizer)
    before.save(tmp_path / "prompt")
    tokenizer.chat_template = None
    after = PromptBuilder.load(tmp_path / "prompt", tokenizer)
    assert after.definition == before.definition
    assert after.build(database, "shop", "q?") == before.build(database, "shop", "q?")
    (tmp_path / "prompt" / "prompt.json").write_text("{", encoding="utf-8")
    with pytest.raises(KidpipeError, match="cannot be read"):
        PromptBuilder.load(tmp_path / "prompt", tokenizer)
