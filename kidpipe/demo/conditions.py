"""A table of a scene in; a condition that its rows can meet out. Values are taken from the rows and stand in the text."""

from collections.abc import Callable

from kidpipe.demo.scene import Condition, Scene, be, literal
from kidpipe.demo.spec import ColumnSpec, TableSpec

ConditionMaker = Callable[[Scene, TableSpec], Condition | None]

_EQUAL = ("whose {c} is {v}", "with {c} {v}", "whose {c} equals {v}")
_DIFFERENT = ("whose {c} is not {v}", "with {c} other than {v}")
_COMPARISONS: dict[str, tuple[str, ...]] = {
    ">": ("with {c} above {v}", "whose {c} is more than {v}", "with {c} greater than {v}", "whose {c} is over {v}"),
    "<": ("with {c} below {v}", "whose {c} is less than {v}", "with {c} smaller than {v}", "whose {c} is under {v}"),
    ">=": ("whose {c} is at least {v}", "with {c} of {v} or more"),
    "<=": ("whose {c} is at most {v}", "with {c} of {v} or less"),
}
_DATES: dict[str, tuple[str, ...]] = {
    ">": ("with {c} after {v}", "whose {c} is later than {v}"),
    "<": ("with {c} before {v}", "whose {c} is earlier than {v}"),
}
_BETWEEN = ("whose {c} is between {v} and {w}", "with {c} from {v} to {w}", "with {c} between {v} and {w}")
_IN = ("whose {c} is either {v} or {w}", "with {c} {v} or {w}", "whose {c} is one of {v} and {w}")
_STARTS = ("whose {c} starts with {v}", "with {c} beginning with {v}")
_ENDS = ("whose {c} ends with {v}", "with {c} ending in {v}")
_CONTAINS = ("whose {c} contains {v}", "with {c} containing the word {v}")


def any_condition(scene: Scene, table: TableSpec) -> Condition | None:
    """The kinds that most questions use: a text, a number or a date compared with one value."""
    makers = (text_equals, number_compared, number_compared, date_compared, text_equals)
    return scene.rng.choice(makers)(scene, table)


def two_conditions(scene: Scene, table: TableSpec) -> tuple[Condition, Condition] | None:
    """Two conditions on different columns."""
    first, second = any_condition(scene, table), any_condition(scene, table)
    if not first or not second or first.column == second.column:
        return None
    return first, second


def text_equals(scene: Scene, table: TableSpec) -> Condition | None:
    return _text_equals(scene, scene.column(table, "category", "category", "name"), table)


def category_equals(scene: Scene, table: TableSpec) -> Condition | None:
    """A condition that several rows may meet."""
    return _text_equals(scene, scene.column(table, "category"), table)


def _text_equals(scene: Scene, column: ColumnSpec | None, table: TableSpec) -> Condition | None:
    if not column:
        return None
    value = scene.rng.choice(scene.values(table, column))
    if column.kind == "category" and scene.rng.random() < 0.15:
        return _make(scene, column, _DIFFERENT, f"@{column.name} != {literal(value)}", value)
    phrases: tuple[str, ...] = _EQUAL
    if column.preposition and scene.rng.random() < 0.5:
        phrases = (column.preposition + " {v}",)
    return _make(scene, column, phrases, f"@{column.name} = {literal(value)}", value)


def number_compared(scene: Scene, table: TableSpec) -> Condition | None:
    column = scene.column(table, "number")
    if not column:
        return None
    value = scene.rng.choice(scene.values(table, column))
    operator = scene.rng.choice((">", "<", ">", "<", ">=", "<="))
    return _make(scene, column, _COMPARISONS[operator], f"@{column.name} {operator} {value}", value)


def date_compared(scene: Scene, table: TableSpec) -> Condition | None:
    column = scene.column(table, "date")
    if not column:
        return None
    value = scene.rng.choice(scene.values(table, column))
    operator = scene.rng.choice((">", "<"))
    return _make(scene, column, _DATES[operator], f"@{column.name} {operator} {literal(value)}", value)


def between(scene: Scene, table: TableSpec) -> Condition | None:
    column = scene.column(table, "number", "number", "date")
    values = scene.values(table, column) if column else []
    if not column or len(values) < 2:
        return None
    low, high = sorted(scene.rng.sample(values, 2), key=lambda value: str(value) if column.kind == "date" else int(value))
    return _make(scene, column, _BETWEEN, f"@{column.name} BETWEEN {literal(low)} AND {literal(high)}", low, high)


def one_of(scene: Scene, table: TableSpec) -> Condition | None:
    column = scene.column(table, "category")
    values = scene.values(table, column) if column else []
    if not column or len(values) < 3:
        return None
    one, other = scene.rng.sample(values, 2)
    return _make(scene, column, _IN, f"@{column.name} IN ({literal(one)}, {literal(other)})", one, other)


def like(scene: Scene, table: TableSpec) -> Condition | None:
    column = table.label
    if not column:
        return None
    value = str(scene.rng.choice(scene.values(table, column)))
    first, last = value.split()[0], value.split()[-1]
    phrases, pattern, part = scene.rng.choice(
        ((_STARTS, "{}%", value[0]), (_STARTS, "{}%", first), (_ENDS, "%{}", last), (_CONTAINS, "%{}%", first))
    )
    return _make(scene, column, phrases, f"@{column.name} LIKE '{pattern.format(part)}'", part)


def _make(scene: Scene, column: ColumnSpec, phrases: tuple[str, ...], sql: str, *values: object) -> Condition:
    words = dict(zip(("v", "w"), values, strict=False))
    name = scene.word(column.phrases)
    text = scene.pick(*phrases).format(c=name, **words)
    return Condition(text.replace(f"{name} is ", f"{name} {be(name)} "), sql, column)
