"""Templates over two or three tables joined by their links. A Scene in, a Draft or None (no such link) out.

The FROM clause always starts at the child (T1) and goes to its parents; a table between two others starts from its first
parent. One way of writing a join keeps the world learnable for a model that starts from nothing.
"""

from kidpipe.demo import conditions
from kidpipe.demo.draft import Draft, any_aggregate, ask_count, ask_list, ask_one, ranking
from kidpipe.demo.scene import Scene, plural
from kidpipe.demo.spec import ColumnSpec, TableSpec


def _from(child: TableSpec, link: ColumnSpec, parent: TableSpec) -> str:
    return f"FROM {child.name} AS T1 JOIN {parent.name} AS T2 ON T1.{link.name} = T2.{link.name}"


def _qualified(columns: list[ColumnSpec], alias: str) -> str:
    return ", ".join(f"{alias}.{column.name}" for column in columns)


def child_by_parent(scene: Scene) -> Draft | None:
    """Rows of the child, filtered by a condition on their parent; listed or counted."""
    found = scene.any_link()
    if not found:
        return None
    child, link, parent = found
    condition = conditions.any_condition(scene, parent)
    if not condition:
        return None
    rows = f"{scene.nouns(child)} {link.preposition} {scene.nouns(parent)} {condition.text}"
    tail = f"{_from(child, link, parent)} WHERE {condition.at('T2')}"
    if scene.rng.random() < 0.35:
        return Draft(ask_count(scene, rows), f"SELECT COUNT(*) {tail}")
    columns = scene.columns(child, 2)
    return Draft(ask_list(scene, f"the {scene.names(columns)} of {rows}"), f"SELECT {_qualified(columns, 'T1')} {tail}")


def child_with_parent(scene: Scene) -> Draft | None:
    """Columns of the child beside the label of its parent, with or without a condition on the child."""
    found = scene.any_link()
    label = found[2].label if found else None
    if not found or not label:
        return None
    child, link, parent = found
    condition = conditions.any_condition(scene, child) if scene.rng.random() < 0.7 else None
    column = scene.columns(child, 1, condition)[0]
    text = f" {condition.text}" if condition else ""
    each = scene.pick("each {n}", "every {n}").format(n=scene.noun(child))
    other = scene.pick("the {l} of its {p}", "its {p}'s {l}").format(l=scene.word(label.phrases), p=scene.noun(parent))
    what = f"the {scene.word(column.phrases)} of {each}{text} and {other}"
    where = f" WHERE {condition.at('T1')}" if condition else ""
    return Draft(ask_list(scene, what), f"SELECT T1.{column.name}, T2.{label.name} {_from(child, link, parent)}{where}")


def aggregate_by_parent(scene: Scene) -> Draft | None:
    """An aggregate of the child's number over the children of some parents."""
    found = scene.any_link()
    number = scene.column(found[0], "number") if found else None
    if not found or not number:
        return None
    child, link, parent = found
    condition = conditions.any_condition(scene, parent)
    if not condition:
        return None
    name, words = any_aggregate(scene, number)
    rows = f"{scene.nouns(child)} {link.preposition} {scene.nouns(parent)} {condition.text}"
    what = f"the {words} {scene.word(number.phrases)} of {rows}"
    return Draft(ask_one(scene, what), f"SELECT {name}(T1.{number.name}) {_from(child, link, parent)} WHERE {condition.at('T2')}")


def children_of_each(scene: Scene) -> Draft | None:
    """For each parent (or category of parents) the number or an aggregate of its children."""
    found = scene.any_link()
    if not found:
        return None
    child, link, parent = found
    by = scene.column(parent, "name", "category")
    number = scene.column(child, "number")
    if not by:
        return None
    sql, words = "COUNT(*)", "number of"
    if number and scene.rng.random() < 0.4:
        name, adjective = any_aggregate(scene, number)
        sql, words = f"{name}(T1.{number.name})", f"{adjective} {scene.word(number.phrases)} of"
    each = f"{scene.noun(parent)} {scene.word(by.phrases)}"
    how = scene.pick("for each {e}, the {w} {c}", "each {e} and the {w} {c}", "per {e} the {w} {c}")
    what = how.format(e=each, w=words, c=scene.nouns(child))
    return Draft(ask_list(scene, what), f"SELECT T2.{by.name}, {sql} {_from(child, link, parent)} GROUP BY T2.{by.name}")


def parent_with_many(scene: Scene) -> Draft | None:
    """Parents with at least so many children."""
    found = scene.any_link()
    label = found[2].label if found else None
    if not found or not label:
        return None
    child, link, parent = found
    bound = scene.rng.randint(2, 9)
    how = scene.pick("with at least {b} {c}", "that have at least {b} {c}", "with {b} or more {c}")
    what = f"the {plural(scene.word(label.phrases))} of {scene.nouns(parent)} {how.format(b=bound, c=scene.nouns(child))}"
    query = f"SELECT T2.{label.name} {_from(child, link, parent)} GROUP BY T2.{label.name} HAVING COUNT(*) >= {bound}"
    return Draft(ask_list(scene, what), query)


def parent_with_most(scene: Scene) -> Draft | None:
    """The parent with the most children, or the highest total."""
    found = scene.any_link()
    label = found[2].label if found else None
    if not found or not label:
        return None
    child, link, parent = found
    number = scene.column(child, "number")
    sql, words = "COUNT(*)", scene.pick("the most {c}", "the largest number of {c}")
    if number and scene.rng.random() < 0.4:
        sql, words = f"SUM(T1.{number.name})", "the highest total " + scene.word(number.phrases) + " of {c}"
    what = f"the {scene.word(label.phrases)} of the {scene.noun(parent)} with {words.format(c=scene.nouns(child))}"
    query = f"SELECT T2.{label.name} {_from(child, link, parent)} GROUP BY T2.{label.name} ORDER BY {sql} DESC"
    return Draft(ask_one(scene, what), f"{query} LIMIT 1", ranking(query, sql, 1))


def child_ranked(scene: Scene) -> Draft | None:
    """The child with an extreme number among the children of some parents, or the parent of it."""
    found = scene.any_link()
    number = scene.column(found[0], "number") if found else None
    if not found or not number:
        return None
    child, link, parent = found
    condition = conditions.any_condition(scene, parent)
    column = scene.columns(child, 1)[0]
    if not condition:
        return None
    direction, superlative = scene.rng.choice((("DESC", "highest"), ("ASC", "lowest")))
    rows = f"{scene.noun(child)} with the {superlative} {scene.word(number.phrases)} {link.preposition} {scene.nouns(parent)}"
    query = (
        f"SELECT T1.{column.name} {_from(child, link, parent)} WHERE {condition.at('T2')} ORDER BY T1.{number.name} {direction}"
    )
    question = ask_one(scene, f"the {scene.word(column.phrases)} of the {rows} {condition.text}")
    return Draft(question, f"{query} LIMIT 1", ranking(query, f"T1.{number.name}", 1))


def through(scene: Scene) -> Draft | None:
    """Three tables: labels of one parent, by a condition on the other parent of their common children."""
    between = [table for table in scene.database.tables if len(table.links) > 1]
    if not between:
        return None
    middle = scene.rng.choice(between)
    first_link, second_link = scene.rng.sample(middle.links, 2)
    first, second = (scene.database.table(link.target) for link in (first_link, second_link))
    condition = conditions.any_condition(scene, second)
    label = first.label
    if not label or not condition:
        return None
    way = f"{scene.nouns(middle)} {second_link.preposition} {scene.nouns(second)}"
    different = scene.pick("different", "distinct")
    what = f"the {different} {plural(scene.word(label.phrases))} of {scene.nouns(first)} with {way} {condition.text}"
    query = (
        f"SELECT DISTINCT T1.{label.name} FROM {first.name} AS T1 JOIN {middle.name} AS T2 ON T1.{first_link.name} = "
        f"T2.{first_link.name} JOIN {second.name} AS T3 ON T2.{second_link.name} = T3.{second_link.name} "
        f"WHERE {condition.at('T3')}"
    )
    return Draft(ask_list(scene, what), query)


def chain(scene: Scene) -> Draft | None:
    """Three tables in a row: rows of a grandchild, by a condition on its grandparent."""
    chains = [(child, link, parent, upper) for child, link, parent in scene.database.links() for upper in parent.links]
    if not chains:
        return None
    child, link, parent, upper = scene.rng.choice(chains)
    top = scene.database.table(upper.target)
    condition = conditions.any_condition(scene, top)
    if not condition:
        return None
    rows = (
        f"{scene.nouns(child)} {link.preposition} {scene.nouns(parent)} {upper.preposition} {scene.nouns(top)} {condition.text}"
    )
    tail = f"{_from(child, link, parent)} JOIN {top.name} AS T3 ON T2.{upper.name} = T3.{upper.name} WHERE {condition.at('T3')}"
    if scene.rng.random() < 0.4:
        return Draft(ask_count(scene, rows), f"SELECT COUNT(*) {tail}")
    column = scene.columns(child, 1)[0]
    return Draft(ask_list(scene, f"the {scene.word(column.phrases)} of {rows}"), f"SELECT T1.{column.name} {tail}")
