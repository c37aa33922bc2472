"""Templates with a subquery or a set operation. A Scene in, a Draft or None (no such tables) out."""

from kidpipe.demo import conditions
from kidpipe.demo.draft import Draft, ask_count, ask_list
from kidpipe.demo.scene import Scene, be, plural
from kidpipe.demo.spec import ColumnSpec, TableSpec


def in_subquery(scene: Scene) -> Draft | None:
    """Parents that have a child which meets a condition."""
    found = scene.any_link()
    condition = conditions.any_condition(scene, found[0]) if found else None
    if not found or not condition:
        return None
    child, link, parent = found
    columns = scene.columns(parent, 2)
    having = scene.pick("that have", "that have at least one of the", "which have some")
    what = f"the {scene.names(columns)} of {scene.nouns(parent)} {having} {scene.nouns(child)} {condition.text}"
    inner = f"SELECT {link.name} FROM {child.name} WHERE {condition.at()}"
    return Draft(ask_list(scene, what), f"SELECT {_listed(columns)} FROM {parent.name} WHERE {link.name} IN ({inner})")


def not_in_subquery(scene: Scene) -> Draft | None:
    """Parents that have no child, or none which meets a condition; listed or counted."""
    found = scene.any_link()
    if not found:
        return None
    child, link, parent = found
    condition = conditions.any_condition(scene, child) if scene.rng.random() < 0.6 else None
    text = f" {condition.text}" if condition else ""
    where = f" WHERE {condition.at()}" if condition else ""
    rows = f"{scene.nouns(parent)} {scene.pick('that have no', 'without any', 'without')} {scene.nouns(child)}{text}"
    tail = f"FROM {parent.name} WHERE {link.name} NOT IN (SELECT {link.name} FROM {child.name}{where})"
    if scene.rng.random() < 0.3:
        return Draft(ask_count(scene, rows), f"SELECT COUNT(*) {tail}")
    columns = scene.columns(parent, 2)
    return Draft(ask_list(scene, f"the {scene.names(columns)} of {rows}"), f"SELECT {_listed(columns)} {tail}")


def scalar_subquery(scene: Scene) -> Draft | None:
    """Rows compared with an aggregate of their table."""
    table = scene.any_table()
    number = scene.column(table, "number")
    if not number:
        return None
    operator, name, words = scene.rng.choice(
        (
            (">", "AVG", ("above the average", "more than the average")),
            ("<", "AVG", ("below the average", "less than the average")),
            ("=", "MAX", ("the maximum", "equal to the maximum")),
            ("=", "MIN", ("the minimum", "equal to the minimum")),
        )
    )
    phrase = scene.word(number.phrases)
    rows = f"{scene.nouns(table)} whose {phrase} {be(phrase)} {scene.pick(*words)}"
    tail = f"FROM {table.name} WHERE {number.name} {operator} (SELECT {name}({number.name}) FROM {table.name})"
    if name == "AVG" and scene.rng.random() < 0.3:
        return Draft(ask_count(scene, rows), f"SELECT COUNT(*) {tail}")
    columns = scene.columns(table, 2)
    return Draft(ask_list(scene, f"the {scene.names(columns)} of {rows}"), f"SELECT {_listed(columns)} {tail}")


def scalar_with_filter(scene: Scene) -> Draft | None:
    """Rows compared with the average of those rows of their table that meet a condition."""
    table = scene.any_table()
    number = scene.column(table, "number")
    condition = conditions.category_equals(scene, table)
    if not number or not condition:
        return None
    operator, words = scene.rng.choice(((">", "more"), ("<", "less")))
    columns = scene.columns(table, 1)
    phrase = scene.word(number.phrases)
    what = (
        f"the {scene.names(columns)} of {scene.nouns(table)} whose {phrase} {be(phrase)} {words} than the average of "
        f"{scene.nouns(table)} {condition.text}"
    )
    inner = f"SELECT AVG({number.name}) FROM {table.name} WHERE {condition.at()}"
    return Draft(ask_list(scene, what), f"SELECT {_listed(columns)} FROM {table.name} WHERE {number.name} {operator} ({inner})")


def intersect(scene: Scene) -> Draft | None:
    """Categories that both of two kinds of rows have."""
    return _set_operation(scene, "INTERSECT", ("shared by {a} and by {b}", "that both {a} and {b} have"))


def union(scene: Scene) -> Draft | None:
    """Categories that either of two kinds of rows has."""
    return _set_operation(scene, "UNION", ("that {a} or {b} have", "found among {a} or among {b}"))


def exclude(scene: Scene) -> Draft | None:
    """Categories that one kind of row has and another has not."""
    return _set_operation(scene, "EXCEPT", ("of {a} but not of {b}", "that {a} have but {b} do not have"))


def _set_operation(scene: Scene, operator: str, phrases: tuple[str, ...]) -> Draft | None:
    sides = _two_tables(scene) if scene.rng.random() < 0.4 else _one_table(scene)
    if not sides:
        return None
    column, (first_text, first_sql), (second_text, second_sql) = sides
    how = scene.pick(*phrases).format(a=first_text, b=second_text)
    what = f"the {plural(scene.word(column.phrases))} {how}"
    return Draft(ask_list(scene, what), f"{first_sql} {operator} {second_sql}")


_Side = tuple[str, str]


def _one_table(scene: Scene) -> tuple[ColumnSpec, _Side, _Side] | None:
    """Rows of one table under two conditions."""
    table = scene.any_table()
    column = scene.column(table, "category")
    first, second = conditions.any_condition(scene, table), conditions.any_condition(scene, table)
    if not column or not first or not second or first.sql == second.sql or column in (first.column, second.column):
        return None
    nouns = scene.nouns(table)
    start = f"SELECT {column.name} FROM {table.name} WHERE"
    return column, (f"{nouns} {first.text}", f"{start} {first.at()}"), (f"{nouns} {second.text}", f"{start} {second.at()}")


def _two_tables(scene: Scene) -> tuple[ColumnSpec, _Side, _Side] | None:
    """Rows of two tables that have a category of one name, the second with or without a condition."""
    pairs = [
        (first, second, column)
        for first in scene.database.tables
        for second in scene.database.tables
        for column in first.of_kind("category")
        if first != second and column in second.columns
    ]
    if not pairs:
        return None
    first, second, column = scene.rng.choice(pairs)
    return column, _side(scene, first, column), _side(scene, second, column)


def _side(scene: Scene, table: TableSpec, column: ColumnSpec) -> _Side:
    condition = conditions.any_condition(scene, table) if scene.rng.random() < 0.5 else None
    if not condition or condition.column == column:
        return scene.nouns(table), f"SELECT {column.name} FROM {table.name}"
    return f"{scene.nouns(table)} {condition.text}", f"SELECT {column.name} FROM {table.name} WHERE {condition.at()}"


def _listed(columns: list[ColumnSpec]) -> str:
    return ", ".join(column.name for column in columns)
