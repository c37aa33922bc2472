"""Templates over one table: lists, filters, aggregates, groups and orders. A Scene in, a Draft or None (no such table) out."""

from kidpipe.demo import conditions
from kidpipe.demo.conditions import ConditionMaker
from kidpipe.demo.draft import Draft, Template, any_aggregate, ask_count, ask_list, ask_one, ranking, scope
from kidpipe.demo.scene import Condition, Scene, plural
from kidpipe.demo.spec import ColumnSpec, TableSpec


def filtered(maker: ConditionMaker | None) -> Template:
    """SELECT columns FROM table, with a condition of `maker`."""

    def template(scene: Scene) -> Draft | None:
        table = scene.any_table()
        condition = maker(scene, table) if maker else None
        if maker and not condition:
            return None
        columns = scene.columns(table, 3 if maker is None else 2, condition)
        what = f"the {scene.names(columns)} of {scope(scene, table, condition)}"
        return Draft(ask_list(scene, what), _select(columns, table, condition))

    return template


def filtered_twice(scene: Scene) -> Draft | None:
    """Two conditions joined by AND or OR."""
    table = scene.any_table()
    pair = conditions.two_conditions(scene, table)
    if not pair:
        return None
    word = scene.pick("and", "and", "or")
    condition = Condition(f"{pair[0].text} {word} {pair[1].text}", f"{pair[0].sql} {word.upper()} {pair[1].sql}", pair[0].column)
    columns = scene.columns(table, 2, condition)
    what = f"the {scene.names(columns)} of {scope(scene, table, condition)}"
    return Draft(ask_list(scene, what), _select(columns, table, condition))


def count_rows(maker: ConditionMaker | None) -> Template:
    """SELECT COUNT(*), with a condition of `maker`."""

    def template(scene: Scene) -> Draft | None:
        table = scene.any_table()
        condition = maker(scene, table) if maker else None
        if maker and not condition:
            return None
        text = f" {condition.text}" if condition else ""
        return Draft(ask_count(scene, scene.nouns(table) + text), f"SELECT COUNT(*) FROM {table.name}{_where(condition)}")

    return template


def distinct(scene: Scene) -> Draft | None:
    """SELECT DISTINCT column or COUNT(DISTINCT column)."""
    table = scene.any_table()
    column = scene.column(table, "category")
    condition = conditions.any_condition(scene, table) if scene.rng.random() < 0.7 else None
    if not column or (condition and condition.column == column):
        return None
    different = f"{scene.pick('different', 'distinct')} {plural(scene.word(column.phrases))}"
    if scene.rng.random() < 0.4:
        question = ask_count(scene, f"{different} of {scope(scene, table, condition)}")
        return Draft(question, f"SELECT COUNT(DISTINCT {column.name}) FROM {table.name}{_where(condition)}")
    what = f"the {different} of {scope(scene, table, condition)}"
    return Draft(ask_list(scene, what), f"SELECT DISTINCT {column.name} FROM {table.name}{_where(condition)}")


def aggregate(scene: Scene) -> Draft | None:
    """One aggregate, or the lowest and the highest, of a number."""
    table = scene.any_table()
    column = scene.column(table, "number")
    if not column:
        return None
    condition = conditions.any_condition(scene, table) if scene.rng.random() < 0.6 else None
    name, words = any_aggregate(scene, column)
    selected = f"{name}({column.name})"
    if scene.rng.random() < 0.2:
        words = scene.pick("lowest and highest", "minimum and maximum")
        selected = f"MIN({column.name}), MAX({column.name})"
    what = f"the {words} {scene.word(column.phrases)} of {scope(scene, table, condition)}"
    return Draft(ask_one(scene, what), f"SELECT {selected} FROM {table.name}{_where(condition)}")


def ordered(scene: Scene) -> Draft | None:
    """All rows in an order."""
    table = scene.any_table()
    key = scene.column(table, "number", "date", "name")
    if not key:
        return None
    condition = conditions.any_condition(scene, table) if scene.rng.random() < 0.5 else None
    columns = scene.columns(table, 2, condition)
    direction, words = scene.rng.choice((("ASC", "ascending"), ("DESC", "descending")))
    how = scene.pick("sorted by {c} in {d} order", "in {d} order of {c}", "ordered by {c} in {d} order")
    order = how.format(c=scene.word(key.phrases), d=words)
    query = f"{_select(columns, table, condition)} ORDER BY {key.name} {direction}"
    what = f"the {scene.names(columns)} of {scope(scene, table, condition)}, {order}"
    return Draft(ask_list(scene, what), query, ranking(query, key.name))


def extreme(scene: Scene) -> Draft | None:
    """The first one or few rows in an order."""
    table = scene.any_table()
    key = scene.column(table, "number", "number", "date")
    if not key:
        return None
    condition = conditions.any_condition(scene, table) if scene.rng.random() < 0.3 else None
    columns = scene.columns(table, 2, condition)
    top = scene.rng.random() < 0.5
    superlative = ("latest" if top else "earliest") if key.kind == "date" else ("highest" if top else "lowest")
    limit = scene.pick("1", "1", "3", "5")
    noun = scene.noun(table) if limit == "1" else f"{limit} {scene.nouns(table)}"
    text = f" {condition.text}" if condition else ""
    what = f"the {scene.names(columns)} of the {noun}{text} with the {superlative} {scene.word(key.phrases)}"
    query = f"{_select(columns, table, condition)} ORDER BY {key.name} {'DESC' if top else 'ASC'}"
    asked = ask_one(scene, what) if limit == "1" else ask_list(scene, what)
    return Draft(asked, f"{query} LIMIT {limit}", ranking(query, key.name, int(limit)))


def grouped(scene: Scene) -> Draft | None:
    """A count or aggregate for each value of a category."""
    found = _group(scene)
    if not found:
        return None
    table, column, sql, words = found
    condition = conditions.any_condition(scene, table) if scene.rng.random() < 0.4 else None
    if condition and condition.column == column:
        return None
    each = scene.pick("for each {c}", "of each {c}", "per {c}").format(c=scene.word(column.phrases))
    text = f" {condition.text}" if condition else ""
    what = f"the {scene.word(column.phrases)} and the {words} {scene.nouns(table)}{text} {each}"
    return Draft(
        ask_list(scene, what), f"SELECT {column.name}, {sql} FROM {table.name}{_where(condition)} GROUP BY {column.name}"
    )


def having(scene: Scene) -> Draft | None:
    """The categories whose count or aggregate passes a bound."""
    found = _group(scene)
    if not found:
        return None
    table, column, sql, words = found
    if sql == "COUNT(*)":
        operator, bound = scene.rng.choice((">=", "<=", ">")), scene.rng.randint(1, 9)
    else:
        number = sql[sql.index("(") + 1 : -1]
        place = [item.name for item in table.columns].index(number)
        operator, bound = scene.rng.choice((">", "<")), int(scene.rng.choice(scene.rows[table.name])[place])
    passes = {">=": "is at least", "<=": "is at most", ">": "is more than", "<": "is less than"}[operator]
    what = f"the {plural(scene.word(column.phrases))} for which the {words} {scene.nouns(table)} {passes} {bound}"
    query = f"SELECT {column.name} FROM {table.name} GROUP BY {column.name} HAVING {sql} {operator} {bound}"
    return Draft(ask_list(scene, what), query)


def most_common(scene: Scene) -> Draft | None:
    """The category with the most or fewest rows."""
    table = scene.any_table()
    column = scene.column(table, "category")
    if not column:
        return None
    direction, words = scene.rng.choice((("DESC", ("most", "largest number of")), ("ASC", ("fewest", "smallest number of"))))
    query = f"SELECT {column.name} FROM {table.name} GROUP BY {column.name} ORDER BY COUNT(*) {direction}"
    phrases = ("Which {c} has the {w} {n}?", "What is the {c} with the {w} {n}?", "Find the {c} with the {w} {n}.")
    question = scene.pick(*phrases).format(c=scene.word(column.phrases), w=scene.word(words), n=scene.nouns(table))
    return Draft(question, f"{query} LIMIT 1", ranking(query, "COUNT(*)", 1))


def _group(scene: Scene) -> tuple[TableSpec, ColumnSpec, str, str] | None:
    """A table, a category of it, an aggregate in SQL, and in words that a plural noun follows."""
    table = scene.any_table()
    column = scene.column(table, "category")
    if not column:
        return None
    number = scene.column(table, "number")
    if not number or scene.rng.random() < 0.5:
        return table, column, "COUNT(*)", "number of"
    name, words = any_aggregate(scene, number)
    return table, column, f"{name}({number.name})", f"{words} {scene.word(number.phrases)} of"


def _where(condition: Condition | None) -> str:
    return f" WHERE {condition.at()}" if condition else ""


def _select(columns: list[ColumnSpec], table: TableSpec, condition: Condition | None) -> str:
    return f"SELECT {', '.join(column.name for column in columns)} FROM {table.name}{_where(condition)}"
