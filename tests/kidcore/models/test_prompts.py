"""Schema text, prompts, and the token boundaries between schema, question and SQL."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kidcore.config.config import IngestSettings
from kidcore.errors import KidpipeError
from kidcore.models.prompts import PromptEncoder, prompt_digest, render_question
from kidcore.models.tokenizers import load_tokenizer
from kidcore.sql.schema_text import read_schema, render


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


def test_compact_writes_a_line_a_table_and_resolves_implied_keys(database: Path) -> None:
    assert render(read_schema(database, "shop"), "compact") == (
        "database: shop\n"
        "maker: id integer primary key, full name text\n"
        "item: id integer primary key, maker_id int, price real\n"
        "foreign keys: item.maker_id = maker.id, item.id = maker.id\n"
    )


def test_ddl_shows_sample_rows_on_one_line_each(database: Path) -> None:
    text = render(read_schema(database, "shop", 1), "ddl")
    assert "CREATE TABLE maker" in text
    assert "/* 1 rows of maker:\nid\tfull name\n1\tAnn Lee\n*/" in text


def test_a_missing_or_broken_database_is_said(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="database missing"):
        read_schema(tmp_path / "none.sqlite", "none")
    (tmp_path / "bad.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(KidpipeError, match="database unreadable"):
        read_schema(tmp_path / "bad.sqlite", "bad")


def test_the_prompt_version_follows_what_is_written() -> None:
    assert prompt_digest(IngestSettings()) != prompt_digest(IngestSettings(template="ddl"))
    assert prompt_digest(IngestSettings()) == prompt_digest(IngestSettings(shard_rows=7))


@given(question=st.text(min_size=1, max_size=60), other=st.text(min_size=1, max_size=60))
def test_prompts_on_one_schema_share_its_tokens(tiny_encoder: PromptEncoder, question: str, other: str) -> None:
    schema = tiny_encoder.schema_ids("database: d\nt: a int\n")
    first, second = (schema + tiny_encoder.question_ids(text, "") for text in (question, other))
    assert first[: len(schema)] == second[: len(schema)] == schema


@given(st.text(min_size=1, max_size=80))
def test_sql_tokens_and_their_starts_cover_the_text(tiny_encoder: PromptEncoder, sql: str) -> None:
    ids, starts = tiny_encoder.sql_ids(sql)
    assert tiny_encoder.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == sql
    assert starts == sorted(starts)
    assert starts[0] == 0


@pytest.fixture(scope="module")
def tiny_encoder(tiny_model: Path) -> PromptEncoder:
    return PromptEncoder(load_tokenizer(tiny_model), chat=False)


def test_chat_templates_go_around_both_pieces(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    messages = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
    tokenizer.chat_template = messages + "{% if add_generation_prompt %}[assistant]{% endif %}"
    encoder = PromptEncoder(tokenizer, chat=True)
    text = tokenizer.decode(encoder.schema_ids("schema\n") + encoder.question_ids("q?", "hint"))
    assert text == "[user]schema\n" + render_question("q?", "hint") + "[end][assistant]"


def test_chat_without_a_template_is_refused(tiny_model: Path) -> None:
    with pytest.raises(KidpipeError, match="no chat template"):
        PromptEncoder(load_tokenizer(tiny_model), chat=True)
