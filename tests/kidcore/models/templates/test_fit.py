"""Which tables of a long schema a prompt shows."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from kidcore.config.config import IngestSettings
from kidcore.models.prompts import PromptBuilder
from kidcore.models.templates.fit import by_relevance, words
from kidcore.models.templates.variables import view_of
from kidcore.models.tokenizers import load_tokenizer
from kidcore.sql.named_tables import named_tables
from kidcore.sql.schema_text import read_schema


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "many.sqlite"
    with sqlite3.connect(path) as connection:
        for number in range(20):
            connection.execute(f"CREATE TABLE filler_{number} (id INTEGER PRIMARY KEY, code TEXT, amount REAL)")
        connection.executescript(
            """CREATE TABLE singers (singerID INTEGER PRIMARY KEY, fullName TEXT, country TEXT);
            CREATE TABLE appearance (singer INT REFERENCES singers(singerID), concert INT REFERENCES concerts(id));
            CREATE TABLE concerts (id INTEGER PRIMARY KEY, stadium TEXT, year INT);"""
        )
    connection.close()
    return path


def test_words_of_names_and_questions_meet() -> None:
    assert words("singerID stuID2 full_name HTTPServer") == {"singer", "id", "stu", "2", "full", "name", "http", "server"}
    assert words("Which singers gave concerts? class") == {"which", "singer", "gave", "concert", "class"}


def test_relevant_tables_come_first_and_those_that_join_them_next(database: Path) -> None:
    view = view_of(read_schema(database, "many"))
    order = by_relevance(view, "How many singers gave a concert in a stadium?")
    assert set(order[:3]) == {"singers", "concerts", "appearance"}
    assert order[3:] == [f"filler_{number}" for number in range(20)]
    assert by_relevance(view, "nothing in common", ["Filler_7"])[0] == "filler_7"
    assert by_relevance(view, "nothing in common") == [table.name for table in view.tables]


@pytest.mark.parametrize("limit", [90, 140, 200])
def test_a_long_schema_is_cut_to_its_limit(tiny_model: Path, database: Path, limit: int) -> None:
    builder = PromptBuilder.of(IngestSettings(fit="tables", max_prompt_tokens=limit), load_tokenizer(tiny_model))
    prompt = builder.build(database, "many", "Which stadium was the concert in?")
    assert len(prompt.ids) <= limit
    assert "concerts" not in prompt.left_out
    assert len(prompt.left_out) < 23
    for name in prompt.left_out:
        assert f"\n{name}: " not in prompt.text
        assert f" {name}." not in prompt.text
    assert prompt == builder.build(database, "many", "Which stadium was the concert in?")


def test_what_has_to_stay_stays(tiny_model: Path, database: Path) -> None:
    builder = PromptBuilder.of(IngestSettings(fit="tables", max_prompt_tokens=120), load_tokenizer(tiny_model))
    keep = ("filler_3", "FILLER_11")
    prompt = builder.build(database, "many", "Which stadium was the concert in?", keep=keep)
    assert not {"filler_3", "filler_11"} & set(prompt.left_out)
    assert len(prompt.ids) <= 120


def test_without_fit_nothing_is_left_out(tiny_model: Path, database: Path) -> None:
    builder = PromptBuilder.of(IngestSettings(max_prompt_tokens=90), load_tokenizer(tiny_model))
    prompt = builder.build(database, "many", "q?")
    assert prompt.left_out == ()
    assert len(prompt.ids) > 90


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT a FROM Singers JOIN concerts", {"singers", "concerts"}),
        ('SELECT "my table".a FROM [my table]', {"my table"}),
        ("SELECT 'concerts' FROM `singers`", {"singers"}),
        ("SELECT 1", set()),
    ],
)
def test_tables_that_sql_names(sql: str, named: set[str]) -> None:
    assert named_tables(sql, ["singers", "concerts", "my table"]) == named


def test_training_keeps_golds_tables_and_evaluation_counts_the_lost(tiny_model: Path, database: Path) -> None:
    from eval.generate import generate_predictions
    from kidcore.config.config import EngineSettings
    from kidcore.models.backends.select import open_backend
    from kidcore.sql.datasets import Example

    example = Example("x", "many", "Which stadium was the concert in?", "SELECT code FROM filler_9")
    builder = PromptBuilder.of(IngestSettings(fit="tables", max_prompt_tokens=100), load_tokenizer(tiny_model))
    backend: Any = open_backend(tiny_model, EngineSettings(backend="transformers"), max_top_k=4, max_length=512)
    try:
        made = generate_predictions(backend, builder, [example], lambda _: database, 4)
    finally:
        backend.close()
    assert made.lost_tables == {"x": ["filler_9"]}
    assert list(made.sql) == ["x"]
