"""The clauses of a query in Spider's grammar: the forms that its exact set match and hardness are defined on."""

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class ColumnName:
    """A column as written; `table` is empty where unqualified, `name` is * for all."""

    table: str
    name: str


@dataclass(frozen=True)
class ColumnUnit:
    """A column under at most one aggregate."""

    aggregate: str
    column: ColumnName
    distinct: bool


@dataclass(frozen=True)
class ValueUnit:
    """One column unit, or two under an arithmetic operator; in ORDER BY also one under a comparison with a value."""

    operator: str
    left: ColumnUnit
    right: ColumnUnit | None


@dataclass(frozen=True)
class Literal:
    """A value in the text: its content counts for nothing in exact set match."""

    text: str


Value: TypeAlias = "ParsedQuery | ValueUnit | ColumnUnit | Literal | None"


@dataclass(frozen=True)
class ConditionUnit:
    """`left [NOT] operator value [AND second]`."""

    negated: bool
    operator: str
    left: ValueUnit
    value: Value
    second: Value


@dataclass(frozen=True)
class SelectItem:
    """An item of the select list; the aggregate around the whole item is told apart from one inside."""

    aggregate: str
    unit: ValueUnit


@dataclass(frozen=True)
class FromSource:
    """A table by name, or a subquery, in FROM; `alias` is empty where there is none."""

    table: "str | ParsedQuery"
    alias: str


@dataclass
class ParsedQuery:
    """The clauses of one SELECT; `connectors` are the ANDs and ORs between its conditions."""

    distinct: bool = False
    select: list[SelectItem] = field(default_factory=list)
    sources: list[FromSource] = field(default_factory=list)
    join: list[ConditionUnit] = field(default_factory=list)
    join_connectors: list[str] = field(default_factory=list)
    where: list[ConditionUnit] = field(default_factory=list)
    where_connectors: list[str] = field(default_factory=list)
    group: list[ColumnUnit] = field(default_factory=list)
    having: list[ConditionUnit] = field(default_factory=list)
    having_connectors: list[str] = field(default_factory=list)
    order: list[tuple[ValueUnit, str]] = field(default_factory=list)
    limit: bool = False
    set_operation: str = ""
    other: "ParsedQuery | None" = None
