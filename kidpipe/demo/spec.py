"""What a domain of the generated world is made of: a Database of Tables of Columns, declared in one line each."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from kidpipe.demo.vocabulary import COLUMN_SYNONYMS

ColumnKind = Literal["key", "link", "name", "category", "number", "date"]
_SQL_TYPES: dict[ColumnKind, str] = {"name": "TEXT", "category": "TEXT", "date": "DATE"}


@dataclass(frozen=True)
class ColumnSpec:
    """A column; `pool` holds the texts of a name or category, `low`, `high`, `step` bound numbers and (years of) dates.

    A name is different in every row; a category repeats. `preposition` joins a row to what a link points at ("books
    *by* authors") or to a place ("venues *in* Oslo").
    """

    name: str
    kind: ColumnKind
    pool: tuple[str, ...] = ()
    low: int = 0
    high: int = 0
    step: int = 1
    target: str = ""
    preposition: str = ""

    @property
    def sql_type(self) -> str:
        return _SQL_TYPES.get(self.kind, "INTEGER")

    @property
    def phrases(self) -> tuple[str, ...]:
        """How a question names the column, the usual way first."""
        plain = self.name.replace("_", " ")
        synonym = COLUMN_SYNONYMS.get(self.name)
        return (plain, synonym) if synonym else (plain,)


@dataclass(frozen=True)
class TableSpec:
    """A table of `num_rows` rows; `nouns` are the words for one of its rows, the usual one first."""

    name: str
    nouns: tuple[str, ...]
    num_rows: int
    columns: tuple[ColumnSpec, ...]

    @property
    def key(self) -> ColumnSpec:
        return self.columns[0]

    @property
    def links(self) -> list[ColumnSpec]:
        return self.of_kind("link")

    @property
    def label(self) -> ColumnSpec | None:
        """The column that tells a row to people: its name or title."""
        return next(iter(self.of_kind("name")), None)

    def of_kind(self, *kinds: ColumnKind) -> list[ColumnSpec]:
        return [column for column in self.columns if column.kind in kinds]


@dataclass(frozen=True)
class Database:
    """A domain: tables in an order in which every link points backwards."""

    name: str
    tables: tuple[TableSpec, ...]
    _by_name: dict[str, TableSpec] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_name.update({table.name: table for table in self.tables})

    def table(self, name: str) -> TableSpec:
        return self._by_name[name]

    def links(self) -> Iterator[tuple[TableSpec, ColumnSpec, TableSpec]]:
        """Every (child, link, parent)."""
        for child in self.tables:
            for link in child.links:
                yield child, link, self.table(link.target)


def table(nouns: str, num_rows: int, *columns: ColumnSpec) -> TableSpec:
    """A table named after the first word of `nouns` ("member reader"), with its key in front."""
    words = tuple(word.replace("_", " ") for word in nouns.split())
    name = nouns.split()[0]
    return TableSpec(name, words, num_rows, (ColumnSpec(f"{name}_id", "key"), *columns))


def label(name: str, pool: tuple[str, ...]) -> ColumnSpec:
    """A text that is different in every row."""
    return ColumnSpec(name, "name", pool)


def category(name: str, pool: tuple[str, ...] | str, preposition: str = "") -> ColumnSpec:
    """A text that repeats; `pool` may be written as one string of words."""
    return ColumnSpec(name, "category", tuple(pool.split()) if isinstance(pool, str) else pool, preposition=preposition)


def number(name: str, low: int, high: int, step: int = 1) -> ColumnSpec:
    """A whole number from low to high, in steps; different in every row where there are enough of them."""
    return ColumnSpec(name, "number", low=low, high=high, step=step)


def date(name: str, first_year: int, last_year: int) -> ColumnSpec:
    """A day, as ISO text."""
    return ColumnSpec(name, "date", low=first_year, high=last_year)


def link(target: str, preposition: str) -> ColumnSpec:
    """A foreign key to table `target`, under the name of its primary key."""
    return ColumnSpec(f"{target}_id", "link", target=target, preposition=preposition)
