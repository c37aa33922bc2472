"""What a prompt may show of a column: distinct values of its table, and what the data set's files say of it."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from kidcore.errors import KidpipeError
from kidcore.sql.column_values import column_descriptions, description_files, distinct_values

HEADER = "original_column_name,column_name,column_description,data_format,value_description\n"


def database(folder: Path, *statements: str) -> Path:
    path = folder / "shop.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return path


def values(path: Path, count: int = 3) -> dict[str, dict[str, list[Any]]]:
    return {table: dict(columns) for table, columns in distinct_values(path, count).items()}


def test_the_first_different_values_in_the_order_of_the_table(tmp_path: Path) -> None:
    path = database(
        tmp_path,
        "CREATE TABLE item (name TEXT, price)",
        "INSERT INTO item VALUES ('b', 2), ('b', NULL), ('a', 1), (NULL, 2.0), ('c', '2'), ('d', 7)",
    )
    assert values(path) == {"item": {"name": ["b", "a", "c"], "price": [2, 1, 2.0]}}
    assert values(path, 1) == {"item": {"name": ["b"], "price": [2]}}
    assert values(path, 99)["item"]["price"] == [2, 1, 2.0, "2", 7], "what is written in another way is another value"
    assert values(path, 0) == {}


def test_an_empty_table_and_one_of_nulls_have_none(tmp_path: Path) -> None:
    path = database(tmp_path, "CREATE TABLE a (x)", "CREATE TABLE b (y)", "INSERT INTO b VALUES (NULL), (NULL)")
    assert values(path) == {"a": {"x": []}, "b": {"y": []}}


def test_only_the_beginning_of_a_long_table_is_looked_at(tmp_path: Path) -> None:
    path = database(
        tmp_path,
        "CREATE TABLE t (x)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) "
        "INSERT INTO t SELECT max(i - 1990, 1) FROM n",
    )
    assert values(path, 100) == {"t": {"x": list(range(1, 11))}}


def test_a_view_that_fails_when_it_is_read_has_no_values(tmp_path: Path) -> None:
    path = database(
        tmp_path,
        "CREATE TABLE t (x)",
        "INSERT INTO t VALUES (-9223372036854775808)",
        "CREATE VIEW v AS SELECT abs(x) AS y FROM t",
    )
    assert values(path)["v"] == {"y": []}


def test_of_duckdb_tables_are_named_with_their_schema_and_nan_is_one_value(tmp_path: Path) -> None:
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA s; CREATE TABLE s.t (x DOUBLE, y INT[])")
        connection.execute("INSERT INTO s.t VALUES ('nan', [1]), ('nan', [1]), (1, [2]), ('inf', NULL)")
    found = values(path, 9)
    assert list(found) == ["s.t"]
    assert [repr(value) for value in found["s.t"]["x"]] == ["nan", "1.0", "inf"]
    assert found["s.t"]["y"] == [[1], [2]]


def described(folder: Path, raw: bytes | str, table: str = "item", name: str = "item.csv") -> dict[str, str]:
    (folder / "database_description").mkdir(exist_ok=True)
    (folder / "database_description" / name).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return dict(column_descriptions(folder / "shop.sqlite", table))


def test_both_descriptions_of_a_column_in_one_line(tmp_path: Path) -> None:
    rows = 'Price,price,what it costs,real,"in  euros,\n  with tax"\nName,,,text,\nKind,kind,,text,"""a"" or b"\n'
    assert described(tmp_path, HEADER + rows) == {"price": "what it costs; in euros, with tax", "kind": '"a" or b'}


@pytest.mark.parametrize("name", ["ITEM.csv", "Item .csv", "item.csv"])
def test_a_file_is_its_tables_whatever_the_case(tmp_path: Path, name: str) -> None:
    assert described(tmp_path, HEADER + "a,,text,,\n", "Item", name) == {"a": "text"}


def test_without_files_or_for_another_table_nothing_is_said(tmp_path: Path) -> None:
    assert column_descriptions(tmp_path / "shop.sqlite", "item") == {}
    assert description_files(tmp_path / "shop.sqlite") == []
    assert described(tmp_path, HEADER + "a,,text,,\n", "other") == {}
    assert [path.name for path in description_files(tmp_path / "shop.sqlite")] == ["item.csv"]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("utf-8", "Łódź"), ("utf-8-sig", "Łódź"), ("utf-16", "Łódź"), ("cp1252", "naïve – “so”")],
)
def test_files_of_any_spreadsheet_are_read(tmp_path: Path, encoding: str, text: str) -> None:
    assert described(tmp_path, (HEADER + f"a,,{text},,\r\n").encode(encoding)) == {"a": text}


def test_a_long_description_is_cut_visibly(tmp_path: Path) -> None:
    (found,) = described(tmp_path, HEADER + f"a,,{'x' * 300},,\n").values()
    assert (len(found), found[-1]) == (120, "…")
    assert described(tmp_path, HEADER + f"a,,{'x' * 120},,\n") == {"a": "x" * 120}


def test_names_of_columns_may_be_spaced_and_in_any_case(tmp_path: Path) -> None:
    assert described(tmp_path, " Original_Column_Name , COLUMN_DESCRIPTION\n A b ,said\n") == {"a b": "said"}


def test_short_and_long_rows_do_no_harm(tmp_path: Path) -> None:
    assert described(tmp_path, HEADER + "a\n\nb,,said,,,more,and more\n,,nobody's,,\n") == {"b": "said", "": "nobody's"}


def test_a_column_without_a_name_describes_nothing(tmp_path: Path) -> None:
    assert described(tmp_path, "original_column_name,column_description,\na,said,a stray remark\n") == {"a": "said"}


@pytest.mark.parametrize("raw", ["", "a,b\n1,2\n", "original column name,column_description\na,b\n"])
def test_a_file_that_is_no_description_is_refused_with_the_columns_that_it_needs(tmp_path: Path, raw: str) -> None:
    with pytest.raises(KidpipeError, match="has no column original_column_name") as caught:
        described(tmp_path, raw)
    assert caught.value.where.endswith("item.csv")
    assert "value_description" in caught.value.fix


@pytest.mark.parametrize(
    "raw", [HEADER + f"a,,{'x' * 200_000},,\n", f"original_column_name,{'x' * 200_000}\na,b\n"], ids=["row", "header"]
)
def test_a_cell_that_no_table_has_is_refused_wherever_it_stands(tmp_path: Path, raw: str) -> None:
    with pytest.raises(KidpipeError, match="malformed CSV"):
        described(tmp_path, raw)


def test_zero_bytes_are_left_out(tmp_path: Path) -> None:
    assert described(tmp_path, HEADER + "a,,sa\0id,,\n") == {"a": "said"}
