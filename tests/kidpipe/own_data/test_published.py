"""Data sets in the forms in which they are published: parts of a split, chats, schemas without databases, BIRD's descriptions."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from kidcore.config.config_load import load_config
from kidcore.errors import KidpipeError
from kidcore.progress import WorkProgress
from kidcore.sql.datasets import read
from kidpipe.commands.init import OwnData, init
from kidpipe.commands.session import open_session
from kidpipe.own_data.columns import choose_columns
from kidpipe.own_data.rows import read_rows
from kidpipe.own_data.schemas import make_databases

SCHEMA = "CREATE TABLE singer (age INTEGER); INSERT INTO singer VALUES (30), (50)"


def run(folder: Path, questions: Path, database: Path | None, columns: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`kidpipe init` into `folder`; what it would print as JSON."""
    session = open_session(None, [], {}, use_file=False)
    printed: list[Any] = []
    session.__dict__["print_json"] = printed.append
    own = OwnData(str(questions), database, columns or {}, 0.1, folder / "data")
    init(session, folder / "kidpipe.toml", {}, force=False, own=own, as_json=True)
    return dict(printed[0])


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_the_parts_of_a_split_are_read_together_and_a_missing_one_is_named(tmp_path: Path) -> None:
    """As the Hub stores them: in data/, beside a README and parts of other splits."""
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("a card")
    for split, number, count in (("train", 0, 2), ("train", 1, 2), ("test", 0, 1)):
        frame = pl.DataFrame({"sql_prompt": [f"{split} {number}?"], "sql": ["SELECT 1"]})
        frame.write_parquet(tmp_path / "data" / f"{split}-{number:05}-of-{count:05}-0a1b.parquet")
    rows, origin = read_rows(str(tmp_path))
    assert [row["sql_prompt"] for row in rows] == ["train 0?", "train 1?"]
    assert choose_columns(rows, {}).question == "sql_prompt"
    assert origin.endswith("train-00000-of-00002-0a1b.parquet and 1 more")
    (tmp_path / "data" / "train-00001-of-00002-0a1b.parquet").rename(tmp_path / "data" / "train-00001-of-00003-0a1b.parquet")
    with pytest.raises(KidpipeError, match="2 files in this folder"):
        read_rows(str(tmp_path))
    (tmp_path / "data" / "train-00001-of-00003-0a1b.parquet").unlink()
    (tmp_path / "data" / "train-00002-of-00002-0a1b.parquet").write_bytes(b"")
    with pytest.raises(KidpipeError, match="1 of 2 parts are not there: number 1"):
        read_rows(str(tmp_path))


def test_a_chat_of_one_question_is_a_row_and_one_of_several_is_left_out(tmp_path: Path) -> None:
    def chat(name: str, who: str, text: str, *said: tuple[str, str]) -> dict[str, Any]:
        return {name: [{who: speaker, text: words} for speaker, words in said]}

    openai = chat("messages", "role", "content", ("system", f"Write SQL.\n{SCHEMA}"), ("user", "q?"), ("assistant", "SELECT 1"))
    sharegpt = chat("conversations", "from", "value", ("human", "q?"), ("gpt", "SELECT 1"))
    for row in (openai, sharegpt):
        rows, _origin = read_rows(str(write(tmp_path / "q.json", [row])))
        columns = choose_columns(rows, {})
        assert (rows[0][columns.question], rows[0][columns.sql]) == ("q?", "SELECT 1")
    several = chat("messages", "role", "content", *[("user", "q?"), ("assistant", "SELECT 2")] * 2)
    made = run(tmp_path, write(tmp_path / "q.json", [openai] * 3 + [several]), None)
    assert made["columns"]["schema"] == "system message"
    assert sum(made["left_out"].values()) == 1
    odd: list[dict[str, Any]] = [{"messages": [3, {"role": 1}]}, {"messages": "text"}]
    assert read_rows(str(write(tmp_path / "odd.json", odd)))[0] == odd


def test_a_database_is_made_of_each_schema_where_rows_bring_nothing_else(tmp_path: Path) -> None:
    """As gretelai/synthetic_text_to_sql and b-mc2/sql-create-context, and the latter in the form of Alpaca."""
    rows: list[dict[str, Any]] = [
        {"instruction": f"older than {n}?", "input": schema, "output": f"SELECT age FROM singer WHERE age > {n};"}
        for n in range(12)
        for schema in (SCHEMA, "CREATE TABLE singer (age INTEGER)")
    ]
    rows.append({"instruction": "q?", "input": "CREATE TABLE singer (age ENUM('a') AUTO_INCREMENT", "output": "SELECT 1"})
    made = run(tmp_path, write(tmp_path / "q.json", rows), None)
    assert (made["columns"]["question"], made["columns"]["schema"]) == ("instruction", "input")
    assert (made["failing"], len(made["databases"]), made["train"] + made["dev"]) == (0, 2, 24)
    assert made["left_out"] == {"with statements of a schema that SQLite does not take": 1}
    assert made["empty_databases"] == 1, "and a line warns of it"
    config = load_config(tmp_path / "kidpipe.toml", {"data.path": str(tmp_path / "data")}, {}).config
    data = read(config.data, "train")
    with closing(sqlite3.connect(data.database(data.examples[0].db_id).path)) as connection:
        assert connection.execute("SELECT count(*) FROM singer").fetchone()[0] in (0, 2)


def test_without_a_database_and_without_a_schema_both_ways_are_named(tmp_path: Path) -> None:
    questions = write(tmp_path / "q.json", [{"question": "q", "sql": "SELECT 1", "note": "no schema"}])
    with pytest.raises(KidpipeError, match="--database is missing, and no column holds CREATE TABLE") as caught:
        run(tmp_path, questions, None)
    assert "--schema-column" in caught.value.fix
    with pytest.raises(KidpipeError, match="SQLite takes none of the schemas: no table is created"):
        run(tmp_path, questions, None, {"schema": "note"})
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH 'PLACE' AS e; CREATE TABLE e.t (x)",
        "VACUUM INTO 'PLACE'",
        "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) INSERT INTO a SELECT n FROM r",
        "INSERT INTO a VALUES (randomblob(100000000))",
        "INSERT INTO a VALUES (load_extension('PLACE'))",
        "\0",
    ],
)
def test_statements_of_a_stranger_reach_no_file_and_end(statement: str, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere.sqlite"
    bad = f"CREATE TABLE a (x); {statement.replace('PLACE', str(place))}"
    good = "CREATE TABLE a (x); PRAGMA foreign_keys = OFF; BEGIN; INSERT INTO a VALUES (1)"
    made = make_databases([{"s": bad}, {"s": good}, {"s": None}], "s", tmp_path, WorkProgress(Console(quiet=True), False))
    assert (len(made.databases), len(made.rows), sum(made.left_out.values()), made.empty) == (1, 1, 2, 0)
    assert not place.exists()


def test_descriptions_of_columns_come_along_and_old_ones_go(tmp_path: Path) -> None:
    """BIRD's dev.json and dev_databases, whose descriptions the template `values` shows."""
    folder = tmp_path / "dev_databases" / "shop"
    (folder / "database_description").mkdir(parents=True)
    with closing(sqlite3.connect(folder / "shop.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE sale (price INT)")
    described = folder / "database_description" / "sale.csv"
    described.write_text("original_column_name,column_description\nprice,in cents\n")
    rows = [{"question_id": n, "db_id": "shop", "question": f"q{n}", "SQL": f"SELECT {n}"} for n in range(4)]
    questions = write(tmp_path / "dev.json", rows)
    run(tmp_path, questions, folder.parent)
    copy = tmp_path / "data" / "databases" / "shop" / "database_description" / "sale.csv"
    assert copy.read_bytes() == described.read_bytes()
    described.unlink()
    (tmp_path / "kidpipe.toml").unlink()
    (tmp_path / "data" / "dev.jsonl").unlink()
    session = open_session(None, [], {}, use_file=False)
    own = OwnData(str(questions), folder.parent, {}, 0.1, tmp_path / "data")
    init(session, tmp_path / "kidpipe.toml", {}, force=True, own=own, as_json=True)
    assert not copy.exists()


def test_gold_sql_is_read_out_of_code_blocks_and_other_gold_stays_as_it_is(tmp_path: Path) -> None:
    plain = ["SELECT '```x```'", "-- SQL: a note\nSELECT 1", "(SELECT 2)", "WITH a AS (SELECT 3) SELECT * FROM a"]
    wrapped = ["```sql\nSELECT 4;\n```", "SQL: SELECT 5"]
    rows = [{"question": f"q{n}", "sql": sql, "schema": SCHEMA} for n, sql in enumerate(plain + wrapped)]
    made = run(tmp_path, write(tmp_path / "q.json", rows), None)
    assert made["unwrapped"] == 2
    text = "".join((tmp_path / "data" / f"{split}.jsonl").read_text() for split in ("train", "dev"))
    assert {json.loads(line)["query"] for line in text.splitlines()} == {*plain, "SELECT 4", "SELECT 5"}


def test_what_no_row_has_decides_what_is_proposed(tmp_path: Path) -> None:
    """WikiSQL's SQL is a parse: no name of a database would mend that."""
    rows = [{"question": "q", "sql": {"sel": 1, "agg": 0}, "schema": SCHEMA}]
    with pytest.raises(KidpipeError, match="SQL that is a list or an object") as caught:
        run(tmp_path, write(tmp_path / "q.json", rows), None)
    assert caught.value.fix == "column 'sql' was read; a column of plain texts is wanted: --sql-column NAME"


def test_a_database_whose_name_speaks_of_sql_is_no_fault_of_the_sql(tmp_path: Path) -> None:
    for name in ("shop", "bank"):
        with closing(sqlite3.connect(tmp_path / f"{name}.sqlite")) as connection, connection:
            connection.execute("CREATE TABLE sale (price INT)")
    questions = write(tmp_path / "q.json", [{"question": "q", "sql": "SELECT 1", "db_id": "SQL question"}])
    with pytest.raises(KidpipeError, match=r"a database that is not there \(SQL question\)") as caught:
        run(tmp_path / "new", questions, tmp_path)
    assert "--db-column" in caught.value.fix
