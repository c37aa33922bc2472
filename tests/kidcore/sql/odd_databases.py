"""Odd databases, made at random in both dialects, and what must hold of each.

    python -m tests.kidcore.sql.odd_databases 500
    python -m tests.kidcore.sql.odd_databases 100 duckdb 7        of one dialect alone, and others than without the 7

Each goes through schema, prompt and ingest, and all of them through one evaluation of gold against gold: its processes are
started once then, not twice a database. What can be read of a database is found out with the engine alone, not with the code
under test.
"""

import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from eval.databases import Databases
from eval.execution import GoldCache
from eval.verdicts import VerdictKind, judge
from kidcore.advance import unheard
from kidcore.config.config import EvalSettings, IngestSettings, SandboxSettings
from kidcore.models.prompts import PromptBuilder
from kidcore.models.templates.template import write_schema
from kidcore.sql.datasets import DataSet, Example
from kidcore.sql.sandbox.job import Limits
from kidcore.sql.sandbox.pool import SandboxPool
from kidcore.sql.schema.identifiers import always_quoted as q
from kidcore.sql.schema.tables import Schema
from kidcore.store.graph import Partition, Task
from kidpipe.demo.models import train_tokenizer
from pipeline.ingest import IngestStage

Draw = Any
_LETTERS = st.characters(exclude_categories=["Cs", "Cc"])
NAMES = st.one_of(
    st.sampled_from(
        [
            *("id", "name", "order", "Group", "select", "a b", "a,b", 'say "hi"', "it's", "a.b", "1st", "%", "été", "名前"),
            *("हिन्दी", "שלום", "a$b", "[x]", "`x`", "x;y", "--", "/*", "*/", "sqlitex", "sqlite", "pragma_x", "duckdb_tables"),
            *("main", "temp", "rowid", "null", "true", "current_date", "table", "T", "a:b", "a\tb", "a\nb", "e\u0301", "\u200b"),
            *("😀", "values", "key"),
        ]
    ),
    st.text(_LETTERS, min_size=1, max_size=8),
    st.text(_LETTERS, min_size=60, max_size=90),
)
TYPES = {
    "sqlite": ["INT", "TEXT", "REAL", "BLOB", "", "VARCHAR(20)", "DECIMAL(10, 2)", "UNSIGNED BIG INT", '"odd, type"', "JSON"],
    "duckdb": [
        *("INT", "VARCHAR", "DOUBLE", "BLOB", "DECIMAL(10, 2)", "HUGEINT", "DATE", "TIMESTAMP", "BOOLEAN", "JSON", "INT[]"),
        *("UUID", "INTERVAL", "TIME", "TIMESTAMPTZ", "BIT", "UBIGINT", "FLOAT[2]", "TIMESTAMP_NS", "VARCHAR[][]"),
        *("ENUM ('Red', 'it''s', 'a, b')", 'STRUCT("In Ner" INT, b VARCHAR)', "MAP(INT, VARCHAR)", "UNION(n INT, s VARCHAR)"),
    ],
}
VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    # Texts that DuckDB casts to its types.
    st.sampled_from(["2024-02-29", "infinity", "12:34:56.789", "[1, NULL]", '{"a": 1}', "true", "1 month", "101", "[['a'], []]"]),
    st.sampled_from(["290000-01-01 (BC) 00:00:00", "1.5", "it''s", "00000000-0000-0000-0000-000000000000", "{k=v}", "NaN"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    st.binary(max_size=12),
)
VIRTUAL = ["fts5({})", "fts4({})", "fts4({}, tokenize=porter)", "rtree(i, low, high)"]


@dataclass
class OddDatabase:
    """Statements for an engine, which may refuse some of them, and what they name."""

    dialect: str
    statements: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    tables: list[tuple[tuple[str, ...], list[str]]] = field(default_factory=list)
    """(path, columns), whether or not they came to be."""


@st.composite
def odd_databases(draw: Draw, dialect: str) -> OddDatabase:
    """One to five tables with keys, then views and virtual tables, then rows."""
    made = OddDatabase(dialect)
    distinct = st.lists(NAMES, min_size=1, max_size=5, unique_by=lambda name: name.casefold())
    spaces: list[tuple[str, ...]] = [()]
    if dialect == "duckdb" and draw(st.booleans()):
        space = draw(NAMES)
        made.statements.append((f"CREATE SCHEMA {q(space)}", ()))
        spaces.append((space,))
    for name in draw(distinct):
        columns = draw(distinct)
        path = (*draw(st.sampled_from(spaces)), name)
        made.statements.append((_create(draw, dialect, path, columns, made.tables), ()))
        made.tables.append((path, columns))
        for _ in range(draw(st.integers(0, 2))):
            marks = ", ".join("?" * len(columns))
            made.statements.append((f"INSERT INTO {_dotted(path)} VALUES ({marks})", tuple(draw(VALUES) for _ in columns)))
    for name in draw(st.lists(NAMES, max_size=2)):
        of, columns = draw(st.sampled_from(made.tables))
        made.statements.append(
            (f"CREATE VIEW {q(name)} AS {_select(of, columns)} WHERE {draw(_conditions(dialect, columns))}", ())
        )
        made.tables.append(((name,), columns))
    if dialect == "sqlite":
        for name in draw(st.lists(NAMES, max_size=1)):
            module = draw(st.sampled_from(VIRTUAL))
            columns = ["i", "low", "high"] if module.startswith("rtree") else draw(distinct)
            made.statements.append((f"CREATE VIRTUAL TABLE {q(name)} USING {module.format(', '.join(map(q, columns)))}", ()))
            made.tables.append(((name,), columns))
    if draw(st.booleans()):
        made.statements.append((f"DROP TABLE {_dotted(draw(st.sampled_from(made.tables))[0])}", ()))
    return made


def _create(draw: Draw, dialect: str, path: tuple[str, ...], columns: list[str], others: list[Any]) -> str:
    parts = []
    for number, column in enumerate(columns):
        is_generated = number and draw(st.integers(0, 5)) == 0
        kind = draw(st.sampled_from(TYPES[dialect]))
        parts.append(f"{q(column)} {'INT AS (length(' + q(columns[0]) + '))' if is_generated else kind}")
    if draw(st.booleans()):
        parts.append(f"PRIMARY KEY ({', '.join(map(q, draw(st.permutations(columns))[: draw(st.integers(1, 2))]))})")
    if draw(st.booleans()):
        other, theirs = draw(st.sampled_from(others)) if others and draw(st.booleans()) else (("nowhere",), ["gone"])
        ours = draw(st.permutations(columns))[: draw(st.integers(1, 2))]
        named = f" ({', '.join(map(q, theirs[: len(ours)]))})" if draw(st.booleans()) else ""
        parts.append(f"FOREIGN KEY ({', '.join(map(q, ours))}) REFERENCES {_dotted(other)}{named}")
    options = draw(st.sampled_from(["", "", " WITHOUT ROWID", " STRICT"])) if dialect == "sqlite" else ""
    return f"CREATE TABLE {_dotted(path)} ({', '.join(parts)}){options}"


def _conditions(dialect: str, columns: list[str]) -> st.SearchStrategy[str]:
    first = q(columns[0])
    json = [f"json_valid({first}) IS NOT NULL"] if dialect == "sqlite" else []
    return st.sampled_from(["1 = 1", f"{first} IS NOT NULL", "1 + " * 300 + "1 > 0", *json])


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(map(q, path))


def _select(path: tuple[str, ...], columns: list[str]) -> str:
    return f"SELECT {', '.join(f'{q(path[-1])}.{q(column)}' for column in columns)} FROM {_dotted(path)}"


def write(made: OddDatabase, path: Path) -> list[tuple[tuple[str, ...], list[str], str]]:
    """Make the database; (path, columns, SQL that reads them) of what the engine itself can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    errors = (sqlite3.Error, duckdb.Error, OverflowError, UnicodeError, ValueError)
    found = []
    connection: Any = sqlite3.connect(path, isolation_level=None) if made.dialect == "sqlite" else duckdb.connect(str(path))
    with closing(connection):
        connection.execute("CREATE TABLE always_there (a INT)")
        for statement, values in made.statements:
            try:
                connection.execute(statement, values)
            except errors:
                continue
        for table, columns in [(("always_there",), ["a"]), *made.tables]:
            try:
                connection.execute(_select(table, columns)).fetchall()
            except errors:
                continue
            found.append((table, columns, _select(table, columns)))
    return found


class Checker:
    """What must hold, with what is dear to make kept between databases."""

    def __init__(self, pool: SandboxPool) -> None:
        self.pool = pool
        self.tokenizer = train_tokenizer(["SELECT a FROM t", "database: x\nt: a int\n"], 300)
        self.settings = IngestSettings(max_prompt_tokens=1_000_000, max_sql_tokens=100_000)
        self.folder = Path(tempfile.mkdtemp())
        self.examples: list[Example] = []

    def check(self, made: OddDatabase) -> None:
        """Raise AssertionError, or whatever our code raised; `check_golds` is to follow."""
        db_id = f"x{len(list(self.folder.iterdir()))}"
        readable = write(made, self.folder / db_id / f"{db_id}.{made.dialect}")
        examples = [Example(f"{db_id}:{number}", db_id, "what?", sql) for number, (_path, _columns, sql) in enumerate(readable)]
        data = DataSet(examples, self.folder)
        self._check_schema(data.database(db_id).schema(2), readable)
        self._check_ingest(data)
        self.examples += examples

    def check_golds(self) -> None:
        """Raise AssertionError where a gold of any database so far doesn't score 1 against itself."""
        data = DataSet(self.examples, self.folder)
        golds = {example.example_id: example.gold_sql for example in self.examples}
        cache = GoldCache(EvalSettings(exact_match=False), SandboxSettings(workers=1))
        verdicts = judge(self.examples, golds, Databases(data.database), cache)
        assert len(verdicts) == len(self.examples)
        for verdict in verdicts:
            assert verdict.kind is VerdictKind.CORRECT, (verdict, golds[verdict.example_id])

    def _check_schema(self, schema: Schema, readable: list[tuple[tuple[str, ...], list[str], str]]) -> None:
        for template in ("compact", "ddl"):
            prompt = write_schema(schema, template)
            for path, columns, _sql in readable:
                # In DDL the engine's own spelling stands, which may quote more than need be.
                forms = [{schema.quoted(name), q(name), name if template == "ddl" else q(name)} for name in (path[-1], *columns)]
                assert all(any(form.lower() in prompt.lower() for form in some) for some in forms), (
                    template,
                    path,
                    columns,
                    prompt,
                )
        for table in schema.tables:
            assert all(len(row) == len(table.columns) for row in table.samples)

    def _check_ingest(self, data: DataSet) -> None:
        stage = IngestStage(self.settings, data, PromptBuilder.of(self.settings, self.tokenizer), self.pool, 10_000_000)
        part = Partition(0, len(data.examples), {})
        rows = stage(Task(part, 0, {}, unheard), data.examples).table.to_pylist()
        assert [row["reason"] for row in rows] == [None] * len(rows)


@contextmanager
def checker() -> Iterator[Checker]:
    with SandboxPool(Limits(timeout_s=20), workers=1) as pool:
        found = Checker(pool)
        try:
            yield found
        finally:
            shutil.rmtree(found.folder)


def check_many(dialect: str, count: int, number: int = 0) -> None:
    """Check `count` databases of a dialect, the same ones for the same `number`."""
    with checker() as found:

        @seed(number)
        @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(odd_databases(dialect))
        def check(made: OddDatabase) -> None:
            found.check(made)

        check()
        found.check_golds()


if __name__ == "__main__":
    dialects = sys.argv[2:3] or ["sqlite", "duckdb"]
    for name in dialects:
        each = int(sys.argv[1]) // len(dialects)
        check_many(name, each, int(sys.argv[3]) if sys.argv[3:] else 0)
        print(f"{each} {name} databases hold")
