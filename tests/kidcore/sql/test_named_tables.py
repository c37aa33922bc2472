"""Tables that SQL names are found however they are written: leaving one out would hide it from the prompt."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.sql.named_tables import named_tables
from kidcore.sql.schema.identifiers import always_quoted, quoted

TABLES = ["pets", "Has_Pet", "order", "my table", "shop.item"]


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT * FROM pets", {"pets"}),
        ("select * from PETS as p join has_pet using (id)", {"pets", "Has_Pet"}),
        ('SELECT * FROM "Pets"', {"pets"}),
        ("SELECT * FROM `order`", {"order"}),
        ("SELECT * FROM [my table]", {"my table"}),
        ('SELECT * FROM "my table"', {"my table"}),
        ("SELECT * FROM item", {"shop.item"}),
        ("SELECT * FROM shop.item", {"shop.item"}),
        ('SELECT * FROM "shop"."ITEM"', {"shop.item"}),
        ("SELECT pets.a FROM has_pet AS pets", {"pets", "Has_Pet"}),
        ("SELECT * FROM petsitters", set()),
        ("SELECT * FROM my_pets", set()),
        ("SELECT 'pets'", set()),
        ("SELECT 'it''s pets' FROM has_pet", {"Has_Pet"}),
        ("SELECT 1", set()),
        ("", set()),
        ('SELECT "pets', {"pets"}),
    ],
)
def test_quotes_case_and_schemas(sql: str, named: set[str]) -> None:
    assert named_tables(sql, TABLES) == named


@pytest.mark.parametrize("name", ["a$b", "_x", "über", "छात्र", "ร้าน", "数据", "a\u0301b", "x1", "e\u200dy"])
def test_a_bare_name_may_have_every_character_that_sqlite_takes(name: str) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE {name} (a)")
        connection.execute(f"SELECT * FROM {name}").close()
    assert named_tables(f"SELECT * FROM {name} WHERE a=1", [name, "other"]) == {name}


def test_a_quote_within_a_name_is_written_twice() -> None:
    assert named_tables('SELECT * FROM "say ""hi"""', ['say "hi"']) == {'say "hi"'}


@settings(max_examples=60)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8))
def test_any_name_is_found_as_a_prompt_shows_it(name: str) -> None:
    for dialect in ("sqlite", "duckdb"):
        assert named_tables(f"SELECT a FROM {quoted(name, dialect)}, b", [name]) == {name}
    assert named_tables(f"SELECT a FROM {always_quoted(name)}", [name]) == {name}


def test_no_table_is_asked_for_no_table_is_found() -> None:
    assert named_tables("SELECT * FROM pets", []) == set()
    assert named_tables("SELECT * FROM pets", iter(["pets"])) == {"pets"}
