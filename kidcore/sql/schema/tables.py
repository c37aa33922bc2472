"""What a schema consists of: tables and views, their columns, and the keys between them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kidcore.sql.schema.identifiers import quoted


class TableKind(StrEnum):
    """What stands behind a table's name."""

    TABLE = "table"
    VIEW = "view"
    VIRTUAL = "virtual"
    """A full-text index, an R-tree and the like; the tables it keeps its contents in are no part of the schema."""


@dataclass(frozen=True)
class Column:
    """A column that can be selected; `type` is in lower case, empty where the database says none."""

    name: str
    type: str
    is_primary: bool
    is_generated: bool = False


@dataclass(frozen=True)
class ForeignKey:
    """`columns` of the table it belongs to equal `targets` of `table`, pair by pair; all of them exist."""

    columns: tuple[str, ...]
    table: str
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table or view that can be read. Names are as the database has them, without quotes."""

    name: str
    columns: tuple[Column, ...]
    create_sql: str
    foreign_keys: tuple[ForeignKey, ...] = ()
    samples: tuple[tuple[Any, ...], ...] = ()
    """The first rows, a value a column."""
    kind: TableKind = TableKind.TABLE
    qualifiers: tuple[str, ...] = ()
    """What has to stand before the name in SQL: a DuckDB schema other than main, say."""

    @property
    def path(self) -> tuple[str, ...]:
        """The name with its qualifiers: what tells tables of one name apart."""
        return (*self.qualifiers, self.name)

    @property
    def links(self) -> tuple[tuple[str, str, str], ...]:
        """(column, referenced table, referenced column) of every key, those of several columns one by one.

        The last column of a key comes first: prompts have always been written so, and stores hold such prompts.
        """
        return tuple(
            (column, key.table, target)
            for key in self.foreign_keys
            for column, target in reversed(list(zip(key.columns, key.targets, strict=True)))
        )


@dataclass(frozen=True)
class Schema:
    """The readable tables of a database, tables first, then views; `dialect` is what sqlglot calls it."""

    db_id: str
    tables: tuple[Table, ...]
    dialect: str = "sqlite"

    def quoted(self, *names: str) -> str:
        """The name, or names with dots between, as SQL has to write them: in quotes where it must."""
        return ".".join(quoted(name, self.dialect) for name in names)
