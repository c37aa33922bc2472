"""Parts of a person's own data: which column is which, what databases are called, and where a row of any table ends up."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.errors import KidpipeError
from kidpipe.own_data.columns import USUAL, choose_columns
from kidpipe.own_data.databases import copy_databases, database_id, find_databases, kind_of
from kidpipe.own_data.rows import read_rows
from kidpipe.own_data.split import FEWEST, split_rows


@pytest.mark.parametrize(
    ("names", "question", "sql", "db"),
    [
        (["question", "query", "db_id"], "question", "query", "db_id"),
        (["NL Query", "SQL-Query", "Database Name"], "NL Query", "SQL-Query", "Database Name"),
        (["query", "question"], "question", "query", ""),
        (["input", "output"], "input", "output", ""),
        (["prompt", "completion", "text"], "text", "completion", ""),
        # In such a set `sql` is a parse and `query` the text.
        (["sql", "query", "question"], "question", "query", ""),
        (["Question", "question", "sql"], "Question", "sql", ""),
    ],
)
def test_the_usual_names_are_known_however_they_are_written(names: list[str], question: str, sql: str, db: str) -> None:
    found = choose_columns([dict.fromkeys(names, "x")], {})
    assert (found.question, found.sql, found.db) == (question, sql, db)


def test_a_column_is_taken_once_and_what_is_missing_is_said_with_the_columns_there_are() -> None:
    with pytest.raises(KidpipeError, match="no column looks like the SQL") as caught:
        choose_columns([{"question": "q"}, {"other": 1}], {})
    assert caught.value.where == "columns: question, other"
    assert caught.value.fix == "name it: --sql-column NAME"
    with pytest.raises(KidpipeError, match="no column looks like the question") as caught:
        choose_columns([], {})
    assert caught.value.where == "columns: none"
    asked: list[tuple[str, list[str]]] = []

    def ask(what: str, columns: object) -> str:
        asked.append((what, list(columns)))  # type: ignore[call-overload]
        return "b"

    assert choose_columns([{"question": "q", "b": "s"}], {}, ask).sql == "b"
    assert asked == [("SQL", ["question", "b"])]


def test_no_usual_name_stands_for_two_things() -> None:
    names = [name for usual in USUAL.values() for name in usual]
    assert len(names) == len(set(names))
    assert all(name == name.lower() and name.isalnum() for name in names)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("shop.db", "shop"),
        ("my shop (2).sqlite", "my_shop_2_"),
        ("日本.sqlite", "日本"),
        ("v1.2.db", "v1.2"),
        ("...db", "database"),
        ("a-b_c.db3", "a-b_c"),
        ("a/../b.db", "b"),
    ],
)
def test_a_database_is_called_after_its_file(file: str, name: str) -> None:
    assert database_id(Path(file)) == name


def test_what_macos_leaves_beside_files_is_neither_a_database_nor_questions(tmp_path: Path) -> None:
    (tmp_path / "__MACOSX").mkdir()
    for name in ("shop.sqlite", "._shop.sqlite", "__MACOSX/._shop.sqlite"):
        sqlite3.connect(tmp_path / name).close()
    assert find_databases(tmp_path) == {"shop": tmp_path / "shop.sqlite"}
    (tmp_path / "._q.csv").write_bytes(b"\0\5\x16\7")
    (tmp_path / "q.csv").write_text("question,sql\na,SELECT 1\n")
    assert read_rows(str(tmp_path))[0] == [{"question": "a", "sql": "SELECT 1"}]


def test_databases_are_found_in_a_folder_and_just_below_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.sqlite", "b/b.DB", "b/notes.txt", "c/d/deep.sqlite"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        sqlite3.connect(tmp_path / name).close()
        (tmp_path / name).touch()
    assert {name: path.name for name, path in find_databases(tmp_path).items()} == {"a": "a.sqlite", "b": "b.DB"}
    (tmp_path / "a.db").touch()
    with pytest.raises(KidpipeError, match="two databases would be called a") as caught:
        find_databases(tmp_path)
    assert "a.db" in caught.value.where
    assert "a.sqlite" in caught.value.where


def test_a_copy_is_whole_and_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    source = tmp_path / "odd name?.db"
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS a")
    assert kind_of(source) == "sqlite"
    found = find_databases(source)
    for _ in range(2):
        copy_databases(found, found, tmp_path / "copies")
    (copy,) = (tmp_path / "copies").glob("*/*")
    assert copy.name == f"{copy.parent.name}.sqlite"
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [(7,)]
    source.write_bytes(source.read_bytes()[:16] + b"x" * 5000)
    with pytest.raises(KidpipeError, match="cannot be copied") as caught:
        copy_databases(found, found, tmp_path / "again")
    assert caught.value.where == str(source)
    assert not list((tmp_path / "again").glob("*/*"))


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("q.csv", "question,sql\r\n1,SELECT 1\r\n", [{"question": "1", "sql": "SELECT 1"}]),
        ("q.csv", '\ufeffquestion;sql\n"a; b";"SELECT 1;\n--x"\n', [{"question": "a; b", "sql": "SELECT 1;\n--x"}]),
        ("q.tsv", "question\tsql\nhow, many?\tSELECT 1\n", [{"question": "how, many?", "sql": "SELECT 1"}]),
        ("q.csv", "question|sql\na, b|SELECT 1\n", [{"question": "a, b", "sql": "SELECT 1"}]),
        ("q.csv", '"question; a|b|c",sql\nq,SELECT 1\n', [{"question; a|b|c": "q", "sql": "SELECT 1"}]),
        ("q.csv", "question,sql\n", []),
        ("q.csv", "question,sql\nNA,NULL\n,x\n", [{"question": "NA", "sql": "NULL"}, {"question": None, "sql": "x"}]),
        ("q.json", '{"question": "q", "sql": "s"}', [{"question": "q", "sql": "s"}]),
        ("q.json", '{"q": {"0": 1, "2": 2}, "s": {"0": 3, "2": null}}', [{"q": 1, "s": 3}, {"q": 2, "s": None}]),
        ("q.json", '{"q": ["a"], "s": ["b", "c"]}', [{"q": ["a"], "s": ["b", "c"]}]),
        ("q.json", '{"q": {"a": 1}}', [{"q": {"a": 1}}]),
        ("q.json", '{"a": [1], "data": [{"q": 1}]}', [{"q": 1}]),
        ("q.json", '{"q": 1}\n\n{"q": 2}\n', [{"q": 1}, {"q": 2}]),
        ("q.ndjson", '[{"q": "\u2028"}]', [{"q": "\u2028"}]),
        ("Q.JSONL", '{"q": 1}', [{"q": 1}]),
    ],
)
def test_rows_are_those_that_were_written(tmp_path: Path, name: str, text: str, rows: list[dict[str, object]]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_rows(str(tmp_path / name)) == (rows, str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.csv", b"", "cannot be read"),
        ("q.csv", b'question,sql\n"a\nb",c\nd,"e"\na,b,c\n', "line 5 has 3 fields and the header 2; a text with ',' in it"),
        ("q.json", b'["a"]', "neither a JSON array of objects nor JSON Lines"),
        ("q.json", b"3", "neither a JSON array of objects nor JSON Lines"),
        ("q.jsonl", b'{"a": 1, "a": 2}', "twice"),
        ("q.parquet", b"PAR1", "cannot be read"),
        ("q.xlsx", b"PK\x03\x04", ".xlsx is not read"),
        ("q", b"x", "a file without an ending is not read"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(KidpipeError) as caught:
        read_rows(str(tmp_path / name))
    assert said in caught.value.what
    assert "\n" not in caught.value.what
    assert str(tmp_path / name) in caught.value.where
    assert caught.value.fix


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 60), share=st.floats(0, 0.9))
def test_a_share_is_held_out_and_never_too_few_to_judge(count: int, share: float) -> None:
    rows = [{"db_id": "d", "query": f"SELECT {number}"} for number in range(count)]
    train, dev = split_rows(rows, share)
    assert [row for row in rows if row in train or row in dev] == rows
    assert split_rows(rows[::-1], share)[1] == dev[::-1], "by content, not by place"
    assert len(dev) == 0 if share == 0 or (count < 2 * FEWEST and share < 1e-6) else True
    assert share == 0 or count < 2 * FEWEST or len(dev) >= FEWEST


def test_spaces_in_sql_decide_nothing_and_every_question_of_it_stays_with_it() -> None:
    rows = [{"db_id": "d", "query": f"SELECT  {number // 2}" if number % 2 else f"SELECT {number // 2}"} for number in range(80)]
    train, dev = split_rows(rows, 0.3)
    plain = [{" ".join(row["query"].split()) for row in part} for part in (train, dev)]
    assert not plain[0] & plain[1]
    assert dev
