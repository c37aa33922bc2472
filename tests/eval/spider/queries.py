"""Queries of Spider's grammar, drawn in parts, so that a test can write one query in several ways."""

import random
from dataclasses import dataclass, replace

from eval.names import Names

NAMES = Names({"t": ["id", "a", "b"], "u": ["id", "a", "c"]}, {})


@dataclass(frozen=True)
class Drawn:
    """The parts of one SELECT over t, or over t and u; columns are written qualified by {t} and {u}."""

    items: tuple[str, ...]
    is_joined: bool = False
    conditions: tuple[str, ...] = ()
    connector: str = "AND"
    group: str = ""
    having: str = ""
    order: tuple[str, ...] = ()
    limit: int | None = None
    operation: str = ""
    other: "Drawn | None" = None

    def sql(self, **names: str) -> str:
        """As text that the official parser reads too: spaces around symbols, AS before every alias of a table."""
        aliases = {"t": names.get("t", "T1"), "u": names.get("u", "T2")}
        source = "t AS {t} JOIN u AS {u} ON {t}.id = {u}.id" if self.is_joined else "t AS {t}"
        parts = [f"SELECT {' , '.join(self.items)} FROM {source}"]
        if self.conditions:
            parts.append("WHERE " + f" {self.connector} ".join(self.conditions))
        if self.group:
            parts.append(f"GROUP BY {self.group}" + (f" HAVING {self.having}" if self.having else ""))
        if self.order:
            parts.append(f"ORDER BY {' , '.join(self.order)}" + (f" LIMIT {self.limit}" if self.limit is not None else ""))
        text = " ".join(parts).format(**aliases)
        return text if self.other is None else f"{text} {self.operation} {self.other.sql(**names)}"

    def shuffled(self, seed: int) -> "Drawn":
        """The same with select items and conditions in another order."""
        mixed = random.Random(seed)
        return replace(
            self,
            items=tuple(mixed.sample(self.items, len(self.items))),
            conditions=tuple(mixed.sample(self.conditions, len(self.conditions))),
            other=self.other and self.other.shuffled(seed),
        )


def draw(seed: int, depth: int = 1) -> Drawn:
    """One query, decided by the seed; at depth 1 perhaps with a set operation."""
    mixed = random.Random(seed)
    is_joined = mixed.random() < 0.4
    columns = ["{t}.id", "{t}.a", "{t}.b"] + ["{u}.a", "{u}.c"] * is_joined

    def aggregate() -> str:
        return f"{mixed.choice(['count', 'max', 'min', 'sum', 'avg'])}({mixed.choice(columns)})"

    def condition() -> str:
        column = mixed.choice(columns)
        compared = f"{column} {mixed.choice(['=', '>', '<', '>=', '<=', '!='])} {mixed.choice('17')}"
        return mixed.choice([compared, compared, f"{column} LIKE 'x'", f"{column} NOT IN (1)", "{t}.id IN (SELECT id FROM u)"])

    def item() -> str:
        return mixed.choice([mixed.choice(columns), aggregate(), "count(*)"])

    group = mixed.choice(["", mixed.choice(columns)])
    order = tuple(f"{mixed.choice([mixed.choice(columns), aggregate()])} DESC" for _ in range(mixed.randint(0, 2)))
    return Drawn(
        items=tuple(item() for _ in range(mixed.randint(1, 3))),
        is_joined=is_joined,
        conditions=tuple(condition() for _ in range(mixed.randint(0, 3))),
        connector=mixed.choice(["AND", "OR"]),
        group=group,
        having=mixed.choice(["", "count(*) > 2"]) if group else "",
        order=order,
        limit=mixed.choice([None, 1, 5]) if order else None,
        operation=mixed.choice(["UNION", "INTERSECT", "EXCEPT"]),
        other=draw(seed + 1, 0) if depth and mixed.random() < 0.3 else None,
    )
