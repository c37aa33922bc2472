"""What a template sees of a database: names as SQL needs them, values cut visibly, and nothing read that it does not ask for."""

from dataclasses import replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from kidcore.models.templates.variables import LONGEST_VALUE, PROBE, Details, SchemaView, cell, literal, view_of
from kidcore.sql.schema.tables import Column, ForeignKey, Schema, Table, TableKind


def table(name: str, *columns: str, **more: Any) -> Table:
    return Table(name, tuple(Column(column, "int", column == "id") for column in columns), f"CREATE TABLE {name} ()", **more)


def keys(view: SchemaView) -> list[str]:
    return [key.sql for key in view.variables()["foreign_keys"]]


@pytest.mark.parametrize(
    ("value", "shown", "written"),
    [
        ("a", "a", "'a'"),
        ("", "", "''"),
        ("it's", "it's", "'it''s'"),
        (" two\n\tlines ", "two lines", "'two lines'"),
        (1, "1", "1"),
        (1.0, "1.0", "1.0"),
        (True, "True", "True"),
        (b"\x00\xff", "<2 bytes>", "<2 bytes>"),
        ("x" * LONGEST_VALUE, "x" * LONGEST_VALUE, "'" + "x" * LONGEST_VALUE + "'"),
        ("x" * 41, "x" * 39 + "…", "'" + "x" * 39 + "…'"),
        (10**60, "1" + "0" * 38 + "…", "1" + "0" * 38 + "…"),
        ("'" * 41, "'" * 39 + "…", "'" + "''" * 39 + "…'"),
        (b"x" * 10**6, "<1000000 bytes>", "<1000000 bytes>"),
        (None, "None", "None"),
        # DuckDB's.
        (Decimal("1.50"), "1.50", "1.50"),
        (["a", 1], "['a', 1]", "['a', 1]"),
        ({"a": 1}, "{'a': 1}", "{'a': 1}"),
        (date(2024, 1, 2), "2024-01-02", "'2024-01-02'"),
        (datetime(2024, 1, 2, 3, 4), "2024-01-02 03:04:00", "'2024-01-02 03:04:00'"),
        (time(1, 2), "01:02:00", "'01:02:00'"),
        (timedelta(days=3, hours=-2), "2 days, 22:00:00", "'2 days 22:00:00'"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001", "'00000000-0000-0000-0000-000000000001'"),
    ],
)
def test_values_are_on_one_line_and_cut_visibly(value: Any, shown: str, written: str) -> None:
    assert cell(value) == shown
    assert literal(value) == written


def test_names_are_quoted_where_sql_needs_it_and_shown_as_they_are() -> None:
    schema = Schema("d", (table("order", "id", "my col"), table("plain", "a")))
    first, second = view_of(schema).tables
    assert (first.name, first.sql_name, second.sql_name) == ("order", '"order"', "plain")
    assert [(column.name, column.sql_name) for column in first.columns] == [("id", "id"), ("my col", '"my col"')]
    assert [column.is_primary for column in first.columns] == [True, False]


def test_a_table_of_another_schema_is_named_with_it_and_so_are_its_keys() -> None:
    child = table("b", "a_id", foreign_keys=(ForeignKey(("a_id",), "a", ("id",)),), qualifiers=("shop",))
    view = view_of(Schema("d", (table("a", "id", qualifiers=("shop",)), child), "duckdb"))
    assert [(one.name, one.sql_name) for one in view.tables] == [("shop.a", "shop.a"), ("shop.b", "shop.b")]
    assert keys(view) == ["shop.b.a_id = shop.a.id"]
    (key,) = view.variables()["foreign_keys"]
    assert (key.table, key.column, key.other_table, key.other_column) == ("shop.b", "a_id", "shop.a", "id")


def test_a_key_of_several_columns_is_several_equations_the_last_column_first() -> None:
    child = table("b", "x", "y", foreign_keys=(ForeignKey(("x", "y"), "a", ("id", "group")),))
    assert keys(view_of(Schema("d", (table("a", "id", "group"), child)))) == ['b.y = a."group"', "b.x = a.id"]


def test_kinds_statements_and_rows_are_shown_plainly() -> None:
    view = Table("v", (Column("a", "", False),), " CREATE VIEW v AS SELECT 1; ", (), ((None,), ("x y",)), TableKind.VIEW)
    (shown,) = view_of(Schema("d", (view,))).tables
    assert (shown.kind, shown.create_sql) == ("view", "CREATE VIEW v AS SELECT 1")
    assert shown.sample_rows == [["None"], ["x y"]]


def test_a_part_of_the_schema_has_the_keys_within_it() -> None:
    a, c = table("a", "id"), table("c", "id")
    b = table("B", "a_id", "c_id", foreign_keys=(ForeignKey(("a_id",), "A", ("id",)), ForeignKey(("c_id",), "c", ("id",))))
    whole = view_of(Schema("d", (a, b, c)))
    assert len(keys(whole)) == 2
    part = whole.only({"b", "A"})
    assert [one.name for one in part.tables] == ["a", "B"], "in the order of the schema, whatever the case"
    assert keys(part) == ["B.a_id = A.id"]
    assert len(keys(whole)) == 2, "the whole is left alone"
    assert whole.only(set()).variables() == {"db_id": "d", "dialect": "sqlite", "tables": [], "foreign_keys": []}
    assert whole.only({"nothing"}).tables == ()


def test_values_and_descriptions_are_read_once_a_table_and_only_when_asked() -> None:
    asked: list[str] = []

    def values(name: str) -> dict[str, list[Any]]:
        asked.append(f"values of {name}")
        return {"id": [1, "it's"]}

    def meanings(name: str) -> dict[str, str]:
        asked.append(f"meanings of {name}")
        return {"id": "the number"}

    schema = Schema("d", (table("a", "ID", "other"), table("b", "id")))
    schema = replace(schema, tables=(table("a", "id", "other"), schema.tables[1]))
    first, _second = view_of(schema, Details(values, meanings)).tables
    assert asked == []
    assert first.columns[0].values == ["1", "'it''s'"]
    assert first.columns[1].values == []
    assert asked == ["values of a"]
    assert [column.description for column in first.columns] == ["the number", ""]
    assert asked == ["values of a", "meanings of a"]


def test_meanings_are_known_whatever_the_case_of_a_column() -> None:
    (one,) = view_of(Schema("d", (table("a", "Song_ID"),)), Details(descriptions=lambda _: {"song_id": "its number"})).tables
    assert one.columns[0].description == "its number"


def test_without_details_there_are_none() -> None:
    (one,) = view_of(Schema("d", (table("a", "id"),))).tables
    assert (one.columns[0].values, one.columns[0].description) == ([], "")


def test_the_probe_has_something_of_all_that_a_template_can_show() -> None:
    variables = PROBE.variables()
    assert variables["foreign_keys"]
    columns = [column for one in variables["tables"] for column in one.columns]
    assert any(column.values for column in columns)
    assert any(column.description for column in columns)
    assert any(column.is_primary for column in columns)
    assert any(one.sample_rows for one in variables["tables"])
    assert any("…" in value for one in variables["tables"] for row in one.sample_rows for value in row)
