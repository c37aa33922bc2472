"""The demo's questions from their parts: English that agrees with itself, SQL that runs, values that are in the rows."""

import re
import sqlite3
from contextlib import closing
from random import Random

import pytest

from kidpipe.demo import conditions
from kidpipe.demo.rows import TableRows, create_statement, make_rows, tables_entry
from kidpipe.demo.scene import Scene, be, literal, plural
from kidpipe.demo.spec import Database, category, date, label, link, number, table

SHOP = Database(
    "shop",
    (
        table(
            "maker firm",
            6,
            label("name", ("Ann Ray", "Bo Li", "Cy Fox", "Di Orr", "Ed Poe", "Flo Kay")),
            category("city", "Oslo Rome Bonn", "in"),
        ),
        table(
            "toy plaything",
            20,
            category("kind", "car ball doll"),
            number("price", 1, 90),
            date("made_on", 2000, 2009),
            link("maker", "by"),
        ),
    ),
)


@pytest.fixture(scope="module")
def rows() -> TableRows:
    return make_rows(SHOP, 5)


def scene(rows: TableRows, seed: int) -> Scene:
    return Scene(SHOP, rows, Random(seed))


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("toy", "toys"),
        ("city", "cities"),
        ("bus", "buses"),
        ("box", "boxes"),
        ("match", "matches"),
        ("date of birth", "dates of birth"),
        ("city of birth", "cities of birth"),
        ("day", "days"),
    ],
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


def test_verbs_and_literals() -> None:
    assert (be("price"), be("hours of work"), be("opening hours")) == ("is", "are", "is")
    assert (literal(3), literal("a b")) == ("3", "'a b'")


def test_rows_follow_the_specification_and_the_seed_alone(rows: TableRows) -> None:
    assert rows == make_rows(SHOP, 5)
    assert rows != make_rows(SHOP, 6)
    makers, toys = rows["maker"], rows["toy"]
    assert [row[0] for row in toys] == list(range(1, 21))
    assert len({row[1] for row in makers}) == 6, "a name is different in every row"
    assert {row[1] for row in toys} <= {"car", "ball", "doll"}
    assert all(isinstance(row[2], int) and 1 <= row[2] <= 90 for row in toys)
    assert len({row[2] for row in toys}) == 20, "numbers differ where there are enough"
    assert all(re.fullmatch(r"200\d-\d\d-\d\d", str(row[3])) for row in toys)
    assert {row[4] for row in toys} <= set(range(1, 6)), "the last parent stays without children"


def test_the_tables_are_what_tables_json_says(rows: TableRows) -> None:
    entry = tables_entry(SHOP)
    with closing(sqlite3.connect(":memory:")) as connection:
        for spec in SHOP.tables:
            connection.execute(create_statement(spec, SHOP))
            connection.executemany(f"INSERT INTO {spec.name} VALUES ({', '.join('?' * len(spec.columns))})", rows[spec.name])
        found = [
            [index, column[1]]
            for index, spec in enumerate(SHOP.tables)
            for column in connection.execute(f"PRAGMA table_info({spec.name})")
        ]
        assert entry["column_names_original"] == [[-1, "*"], *found]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        (key,) = connection.execute("PRAGMA foreign_key_list(toy)").fetchall()
    assert key[2:5] == ("maker", "maker_id", "maker_id")
    names: list[list[object]] = entry["column_names_original"]  # type: ignore[assignment]
    ((child, parent),) = entry["foreign_keys"]  # type: ignore[misc]
    assert (names[child], names[parent]) == ([1, "maker_id"], [0, "maker_id"])  # type: ignore[has-type]


MAKERS = (
    conditions.text_equals,
    conditions.category_equals,
    conditions.number_compared,
    conditions.date_compared,
    conditions.between,
    conditions.one_of,
    conditions.like,
    conditions.any_condition,
)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_condition_runs_and_its_values_stand_in_the_question(rows: TableRows, make: conditions.ConditionMaker) -> None:
    made = 0
    with closing(sqlite3.connect(":memory:")) as connection:
        for spec in SHOP.tables:
            connection.execute(create_statement(spec, SHOP))
            connection.executemany(f"INSERT INTO {spec.name} VALUES ({', '.join('?' * len(spec.columns))})", rows[spec.name])
        for seed in range(60):
            spec = SHOP.tables[seed % 2]
            condition = make(scene(rows, seed), spec)
            if condition is None:
                continue
            made += 1
            assert condition.column in spec.columns
            assert "@" in condition.sql
            assert "@" not in condition.at() + condition.at("T1")
            found = connection.execute(f"SELECT count(*) FROM {spec.name} AS T1 WHERE {condition.at('T1')}").fetchone()[0]
            strict = any(sign in condition.sql for sign in (" > ", " < ", "!="))
            assert found > 0 or strict, "but for the ends of a column, some row meets it"
            values = re.findall(r"'%?([^'%]*)%?'|(?<= )(\d+)\b", condition.sql)
            assert all((text or digits) in condition.text for text, digits in values)
            assert "{" not in condition.text
            assert re.search(r"\b(hours|dates) is\b", condition.text) is None
    assert made >= 20


def test_a_column_that_a_condition_fixes_is_not_shown_and_keys_never_are(rows: TableRows) -> None:
    toy = SHOP.table("toy")
    for seed in range(40):
        drawn = scene(rows, seed)
        condition = conditions.category_equals(drawn, toy)
        assert condition is not None
        shown = drawn.columns(toy, 3, condition)
        assert 1 <= len(shown) <= 3
        assert shown == sorted(shown, key=toy.columns.index)
        assert not any(column.kind in ("key", "link") for column in shown)
        assert condition.column not in shown or " != " in condition.sql


def test_names_are_joined_as_people_do(rows: TableRows) -> None:
    usual = scene(rows, 0)
    usual.word = lambda phrases: phrases[0]  # type: ignore[method-assign]
    columns = list(SHOP.table("toy").columns)
    assert usual.names(columns[1:2]) == "kind"
    assert usual.names(columns[1:3]) == "kind and price"
    assert usual.names(columns[1:4]) == "kind, price and made on"
    assert usual.any_link() is not None
    assert [spec.name for spec, _link, _parent in SHOP.links()] == ["toy"]
