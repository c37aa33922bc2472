"""A schema and its database in, what a template sees of them out: plain values, read from the database only where asked for."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any

from kidcore.sql.schema.tables import Column, ForeignKey, Schema, Table

LONGEST_VALUE = 40
"""Characters of a value that are shown; a longer one ends in "…"."""
_BARE = (int, float, Decimal, bytes, list, tuple, dict)
"""What stands without quotes; dates, times and UUIDs, which DuckDB has, are written as texts are."""


@dataclass(frozen=True)
class Details:
    """What of a table is not in its schema; the functions are called where a template asks."""

    values: Callable[[str], Mapping[str, list[Any]]] = lambda _: {}
    """Of a table's name: distinct values by column."""
    descriptions: Callable[[str], Mapping[str, str]] = lambda _: {}
    """Of a table's name: what its columns mean, by column in lower case."""


@dataclass(frozen=True)
class ColumnView:
    """A column: name, sql_name (quoted where SQL needs it), type, is_primary, values, description."""

    name: str
    sql_name: str
    type: str
    is_primary: bool
    _table: "TableView" = field(repr=False, compare=False)

    @property
    def values(self) -> list[str]:
        """Distinct values as SQL literals, long ones cut."""
        return [literal(value) for value in self._table.distinct.get(self.name, [])]

    @property
    def description(self) -> str:
        """What the data set says of the column; empty where it says nothing."""
        return self._table.meanings.get(self.name.lower(), "")


@dataclass(frozen=True)
class TableView:
    """A table or view: name, sql_name, kind, columns, create_sql, foreign_keys, sample_rows."""

    name: str
    """With the schema it is in before it, where SQL needs that."""
    sql_name: str
    kind: str
    """`table`, `view`, or `virtual` for full-text indexes and the like."""
    create_sql: str
    sample_rows: list[list[str]]
    foreign_keys: list["KeyView"]
    columns: list[ColumnView] = field(default_factory=list)
    _details: Details = field(default_factory=Details)

    @cached_property
    def distinct(self) -> Mapping[str, list[Any]]:
        return self._details.values(self.name)

    @cached_property
    def meanings(self) -> Mapping[str, str]:
        return self._details.descriptions(self.name)


@dataclass(frozen=True)
class KeyView:
    """A foreign key: table.column refers to other_table.other_column; `sql` is that as an equation, quoted as SQL needs."""

    table: str
    column: str
    other_table: str
    other_column: str
    sql: str


@dataclass(frozen=True)
class SchemaView:
    """A database as templates see it."""

    db_id: str
    dialect: str
    tables: tuple[TableView, ...]

    def variables(self) -> dict[str, Any]:
        """The variables of schema.jinja."""
        keys = [key for table in self.tables for key in table.foreign_keys]
        return {"db_id": self.db_id, "dialect": self.dialect, "tables": list(self.tables), "foreign_keys": keys}

    def only(self, names: Collection[str]) -> "SchemaView":
        """With the tables `names` only, and the keys between them."""
        lower = {name.lower() for name in names}
        kept = [
            replace(table, foreign_keys=[key for key in table.foreign_keys if key.other_table.lower() in lower])
            for table in self.tables
            if table.name.lower() in lower
        ]
        return replace(self, tables=tuple(kept))


def view_of(schema: Schema, details: Details | None = None) -> SchemaView:
    """What templates see of `schema`."""
    return SchemaView(schema.db_id, schema.dialect, tuple(_table(schema, table, details or Details()) for table in schema.tables))


def _table(schema: Schema, table: Table, details: Details) -> TableView:
    view = TableView(
        name=".".join(table.path),
        sql_name=schema.quoted(*table.path),
        kind=table.kind.value,
        create_sql=table.create_sql.strip().removesuffix(";"),
        sample_rows=[[cell(value) for value in row] for row in table.samples],
        foreign_keys=[_key(schema, table, *link) for link in table.links],
        columns=[],
        _details=details,
    )
    view.columns.extend(ColumnView(c.name, schema.quoted(c.name), c.type, c.is_primary, view) for c in table.columns)
    return view


def _key(schema: Schema, table: Table, column: str, other: str, target: str) -> KeyView:
    there = (*table.qualifiers, other)
    sql = f"{schema.quoted(*table.path, column)} = {schema.quoted(*there, target)}"
    return KeyView(".".join(table.path), column, ".".join(there), target, sql)


def cell(value: Any) -> str:
    """A value on one line, cut visibly so that one long text does not fill the prompt."""
    text = f"<{len(value)} bytes>" if isinstance(value, bytes) else " ".join(str(value).split())
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def literal(value: Any) -> str:
    """A value as SQL would write it, cut visibly."""
    if value is None or isinstance(value, _BARE):
        return cell(value)
    # Python puts a comma behind an interval's days, which DuckDB doesn't read.
    text = str(value).replace(",", "") if isinstance(value, timedelta) else value
    return "'" + cell(text).replace("'", "''") + "'"


PROBE = view_of(
    Schema(
        "probe",
        (
            Table(
                "a",
                (Column("id", "int", True), Column("t", "text", False)),
                "CREATE TABLE a (id int, t text)",
                (),
                ((1, "x" * 50),),
            ),
            Table("b", (Column("a_id", "int", False),), "CREATE TABLE b (a_id int)", (ForeignKey(("a_id",), "a", ("id",)),)),
        ),
    ),
    Details(lambda _: {"id": [1, 2], "t": ["x'y" * 30, None]}, lambda _: {"t": "a text"}),
)
"""A small schema with everything in it: what a template makes of it stands for the template."""
