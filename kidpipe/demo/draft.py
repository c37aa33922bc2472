"""What a template makes (a Draft), and the openings that questions share."""

from collections.abc import Callable
from dataclasses import dataclass

from kidpipe.demo.scene import Condition, Scene
from kidpipe.demo.spec import ColumnSpec, TableSpec

_LIST = (
    "List {x}.",
    "Show {x}.",
    "What are {x}?",
    "Give {x}.",
    "Find {x}.",
    "Return {x}.",
    "Show me {x}.",
    "Please list {x}.",
)
_ONE = ("What is {x}?", "Find {x}.", "Give {x}.", "Show {x}.", "Return {x}.", "Tell me {x}.")
_COUNT = ("How many {x} are there?", "Count the {x}.", "What is the number of {x}?", "Find the number of {x}.")

AGGREGATES: dict[str, tuple[str, ...]] = {
    "AVG": ("average", "mean"),
    "MAX": ("highest", "maximum"),
    "MIN": ("lowest", "minimum"),
    "SUM": ("total", "sum of"),
}


@dataclass(frozen=True)
class Draft:
    """A question with its gold SQL. `ranking`, where given, selects the keys that decide an order: all must differ."""

    question: str
    query: str
    ranking: str = ""


Template = Callable[[Scene], Draft | None]


def any_aggregate(scene: Scene, column: ColumnSpec) -> tuple[str, str]:
    """An aggregate that makes sense for a number, as SQL function and as words; years and ages are not added up."""
    adds_up = not column.name.endswith(("year", "age"))
    name = scene.pick(*(name for name in AGGREGATES if adds_up or name != "SUM"))
    return name, scene.word(AGGREGATES[name])


def ask_list(scene: Scene, what: str) -> str:
    """A request for several rows: "List the names of all singers."."""
    return scene.pick(*_LIST).format(x=what)


def ask_one(scene: Scene, what: str) -> str:
    """A request for one value."""
    return scene.pick(*_ONE).format(x=what)


def ask_count(scene: Scene, what: str) -> str:
    return scene.pick(*_COUNT).format(x=what)


def scope(scene: Scene, table: TableSpec, condition: Condition | None = None) -> str:
    """ "all singers" or "singers with age above 40"."""
    if condition is None:
        return scene.pick("all ", "all the ", "the ") + scene.nouns(table)
    return scene.pick("", "the ", "all ") + f"{scene.nouns(table)} {condition.text}"


def ranking(query: str, key: str, limit: int | None = None) -> str:
    """The ordering keys of `query`, which ends in ORDER BY: one more than `limit`, since the next one must differ too."""
    tail = f" LIMIT {limit + 1}" if limit is not None else ""
    return f"SELECT {key} {query[query.index('FROM') :]}{tail}"
