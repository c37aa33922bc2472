"""Names and key links of a database, from its file and from Spider's tables.json: what exact set match calls one column."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from eval.names import read_names, read_tables_json
from kidcore.errors import KidpipeError


def tables_json(folder: Path, links: list[list[int]], **changes: object) -> Path:
    """tables.json of one database with the columns a.id, a.x, b.id, b.a_id, c.id."""
    columns = [[-1, "*"], [0, "ID"], [0, "x"], [1, "id"], [1, "A_id"], [2, "id"]]
    entry = {"db_id": "d", "table_names_original": ["A", "b", "C"], "column_names_original": columns, "foreign_keys": links}
    path = folder / "tables.json"
    path.write_text(json.dumps([entry | changes]), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("links", "same"),
    [
        ([], {}),
        ([[4, 1]], {"b.a_id": "a.id", "a.id": "a.id"}),
        # A chain is one group, whichever end is named first.
        ([[4, 1], [1, 5]], dict.fromkeys(("a.id", "b.a_id", "c.id"), "a.id")),
        ([[5, 4], [4, 1]], dict.fromkeys(("a.id", "b.a_id", "c.id"), "a.id")),
        # A link that touches two groups joins the first; the two stay apart, as in Spider's evaluator.
        ([[1, 2], [3, 4], [2, 3]], {"a.id": "a.id", "a.x": "a.id", "b.id": "b.id", "b.a_id": "b.id"}),
        ([[4, 4]], {"b.a_id": "b.a_id"}),
    ],
)
def test_linked_columns_are_called_after_the_first_of_their_group(
    tmp_path: Path, links: list[list[int]], same: dict[str, str]
) -> None:
    assert read_tables_json(tables_json(tmp_path, links)) == {"d": same}


@pytest.mark.parametrize(
    "changes",
    [
        {"foreign_keys": [[4, 99]]},
        {"foreign_keys": [4]},
        {"column_names_original": [[9, "id"]]},
        {"table_names_original": None},
        {"table_names_original": [None, "b", "C"]},
        {"column_names_original": [[-1, "*"], [0, None], [0, "x"], [1, "id"], [1, "A_id"], [2, "id"]]},
        {"foreign_keys": None},
        {"db_id": ["d"]},
    ],
)
def test_a_damaged_tables_json_is_named_with_what_to_do(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tables_json(tmp_path, [[4, 1]], **changes)
    with pytest.raises(KidpipeError, match="cannot read the schemas") as caught:
        read_tables_json(path)
    assert caught.value.where == f"{path}, database 1" + ("" if "db_id" in changes else " (d)")
    assert "mend tables.json" in caught.value.fix


@pytest.mark.parametrize("text", ['[{"foreign_keys": []}]', "[1]", "{}x", '{"db_id": "d"}', '{"d": {}}', "null", '["d"]'])
def test_no_tables_json_at_all_is_a_person_s_error_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "tables.json").write_text(text, encoding="utf-8")
    with pytest.raises(KidpipeError):
        read_tables_json(tmp_path / "tables.json")


def test_a_file_s_names_are_in_lower_case_and_its_links_follow_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            'CREATE TABLE Customer (Id INTEGER PRIMARY KEY, "Full Name" TEXT);'
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, Buyer INTEGER REFERENCES customer (ID),"
            " gone INT REFERENCES nowhere (x));"
            "CREATE VIEW Late AS SELECT id FROM orders;"
        )
    names = read_names(path)
    assert names.columns["customer"] == ["id", "full name"]
    assert names.columns["late"] == ["id"]
    assert names.same["orders.buyer"] == names.same["customer.id"] == "customer.id"
    assert "orders.id" not in names.same
    assert "orders.gone" not in names.same, "a key to a table that isn't there links nothing"


def test_links_that_are_given_replace_the_declared_ones(tmp_path: Path) -> None:
    path = tmp_path / "one.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (a INTEGER REFERENCES a (id));")
    assert read_names(path).same == {"b.a": "a.id", "a.id": "a.id"}
    assert read_names(path, {}).same == {}
