"""A question and a schema in, its tables from the most to the least relevant out; by words alone, so the same everywhere."""

import math
import re
from collections import Counter
from collections.abc import Iterable

from kidcore.models.templates.variables import SchemaView, TableView

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+|[^\W\d_]+")
_NEIGHBOUR = 0.3
"""How much of a table's relevance goes to the tables that keys connect it with: joins need those in between."""


def by_relevance(view: SchemaView, question: str, first: Iterable[str] = ()) -> list[str]:
    """Names of all tables: those in `first`, then by the rarity of the words they share with the question."""
    asked = words(question)
    own = {table.name: words(" ".join([table.name, *(column.name for column in table.columns)])) for table in view.tables}
    spread = Counter(word for found in own.values() for word in found)
    named = {table.name: words(table.name) for table in view.tables}
    scores = {
        # A word of the table's own name counts twice.
        name: sum(_rarity(len(own), spread[word]) * (1 + (word in named[name])) for word in sorted(found & asked))
        for name, found in own.items()
    }
    scores = {table.name: scores[table.name] + _NEIGHBOUR * _best_neighbour(view, table, scores) for table in view.tables}
    kept = {name.lower() for name in first}
    order = {name: number for number, name in enumerate(scores)}
    return sorted(scores, key=lambda name: (name.lower() not in kept, -scores[name], order[name]))


def words(text: str) -> set[str]:
    """The words of a text or a name (`stuID`, `car_makers`), lower case, without the s of a plural."""
    found = {word.lower() for word in _WORD.findall(text)}
    return {word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in found}


def _rarity(tables: int, holding: int) -> float:
    return math.log1p(tables / holding)


def _best_neighbour(view: SchemaView, table: TableView, scores: dict[str, float]) -> float:
    """The score of the best table that a key connects with this one."""
    name = table.name.lower()
    near = {key.other_table.lower() for key in table.foreign_keys}
    near |= {key.table.lower() for other in view.tables for key in other.foreign_keys if key.other_table.lower() == name}
    return max((score for other, score in scores.items() if other.lower() in near - {name}), default=0.0)
