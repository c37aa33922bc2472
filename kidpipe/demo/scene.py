"""A database with its rows in; the random choices that a template makes of them out: tables, columns, conditions, words."""

from dataclasses import dataclass
from random import Random

from kidpipe.demo.rows import TableRows, Value
from kidpipe.demo.spec import ColumnKind, ColumnSpec, Database, TableSpec

_VOWELS = "aeiou"
# How often a question says a table or column in its usual words.
_USUAL = 0.75


@dataclass(frozen=True)
class Condition:
    """A condition on rows of one table: `text` follows the noun; `sql` has @ where the alias of the table goes."""

    text: str
    sql: str
    column: ColumnSpec

    def at(self, alias: str = "") -> str:
        return self.sql.replace("@", f"{alias}." if alias else "")


def plural(phrase: str) -> str:
    """The plural of an English noun phrase; of "date of birth" it is "dates of birth"."""
    head, of, rest = phrase.partition(" of ")
    if of:
        return f"{plural(head)}{of}{rest}"
    if phrase.endswith("y") and phrase[-2] not in _VOWELS:
        return phrase[:-1] + "ies"
    return phrase + ("es" if phrase.endswith(("s", "x", "ch", "sh")) else "s")


def be(phrase: str) -> str:
    """ "is" or "are": some columns, such as hours, are plural by name."""
    return "are" if phrase.split()[0].endswith("s") else "is"


def literal(value: Value) -> str:
    """`value` as SQL."""
    return str(value) if isinstance(value, int) else f"'{value}'"


class Scene:
    """One database, its rows and a random stream."""

    def __init__(self, database: Database, rows: TableRows, rng: Random) -> None:
        self.database = database
        self.rows = rows
        self.rng = rng

    def pick(self, *phrases: str) -> str:
        return self.rng.choice(phrases)

    def any_table(self) -> TableSpec:
        return self.rng.choice(self.database.tables)

    def any_link(self) -> tuple[TableSpec, ColumnSpec, TableSpec] | None:
        """A (child, link, parent) whose parent has a label."""
        links = [item for item in self.database.links() if item[2].label]
        return self.rng.choice(links) if links else None

    def column(self, table: TableSpec, *kinds: ColumnKind) -> ColumnSpec | None:
        """A column of one of `kinds`; a kind named twice is twice as likely."""
        weighted = [column for kind in kinds for column in table.of_kind(kind)]
        return self.rng.choice(weighted) if weighted else None

    def columns(self, table: TableSpec, most: int, condition: Condition | None = None) -> list[ColumnSpec]:
        """One to `most` columns to show, in table order: no keys, no links, and none that `condition` fixes."""
        fixed = condition.column if condition and " = " in condition.sql else None
        shown = [column for column in table.columns if column.kind not in ("key", "link") and column != fixed]
        count = self.rng.randint(1, min(most, len(shown)))
        chosen = self.rng.sample(range(len(shown)), count)
        return [shown[place] for place in sorted(chosen)]

    def values(self, table: TableSpec, column: ColumnSpec) -> list[Value]:
        """The different values of a column, in order of their first row."""
        place = table.columns.index(column)
        return list(dict.fromkeys(row[place] for row in self.rows[table.name]))

    def word(self, phrases: tuple[str, ...]) -> str:
        """Mostly the usual phrase, now and then another."""
        if len(phrases) == 1 or self.rng.random() < _USUAL:
            return phrases[0]
        return self.rng.choice(phrases[1:])

    def noun(self, table: TableSpec) -> str:
        return self.word(table.nouns)

    def nouns(self, table: TableSpec) -> str:
        return plural(self.noun(table))

    def names(self, columns: list[ColumnSpec]) -> str:
        """ "name", "name and city", "name, city and age"."""
        phrases = [self.word(column.phrases) for column in columns]
        return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
