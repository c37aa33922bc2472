"""Predictions without ids, in the order of their examples, in; what was predicted by example id out.

They are refused where numbers, names of databases, or the tables that most of them name say that they have slipped.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from kidcore.errors import KidpipeError
from kidcore.sql.answers import read_answer
from kidcore.sql.datasets import Example
from kidcore.sql.lexer import Token, TokenKind, tokens
from kidcore.sql.text_files import split_lines

Tables = Callable[[str], AbstractSet[str] | None]
"""Table names of a db_id in lower case, without schemas; None where they can't be read."""
Dialects = Callable[[str], str]
"""The dialect that a db_id's database speaks."""
_LEAST_AT_HOME = 0.5
"""Share of the queries that must name tables of their example's database."""
_OPENINGS = ("{", "[{", '["')
"""How rows of JSON begin."""


def from_lines(text: str, path: Path, examples: Sequence[Example], tables: Tables | None, dialect: Dialects) -> dict[str, str]:
    """Spider's form: line n is example n's SQL, perhaps with a tab and the db_id behind it, or its number and a tab before it."""
    lines = _lines(text, len(examples))
    if len(lines) != len(examples):
        raise KidpipeError(
            f"{len(lines)} lines of predictions for {len(examples)} examples",
            where=str(path),
            fix="one line an example, in order; an empty line where there is no prediction, no line breaks inside SQL",
        )
    lines = _without_numbers(lines, path)
    names = {example.db_id for example in examples}
    has_column = _has_column(lines, names)
    said = []
    for number, (line, example) in enumerate(zip(lines, examples, strict=True), 1):
        sql, tab, last = (part.strip(" ") for part in line.rpartition("\t"))
        is_name = bool(tab) and (last in names or (has_column and bool(last) and not set(last) & set("\"'`()=<>;, ")))
        if is_name and last != example.db_id:
            raise other_database(last, example.db_id, f"{path}, line {number}")
        said.append(sql if is_name else line)
    return in_order(said, examples, tables, dialect, f"{path}, line")


def are_lines(text: str, count: int) -> bool:
    """Whether a text that begins as JSON does and is none is a line of SQL for each of so many examples."""
    lines = _lines(text, count)
    # Most lines of damaged JSON still begin as its rows do.
    return len(lines) == count and sum(line.lstrip().startswith(_OPENINGS) for line in lines) * 2 < count


def _lines(text: str, count: int) -> list[str]:
    """The lines, without empty ones at the end where they are more than `count`."""
    lines = [line.rstrip("\r") for line in split_lines(text)]
    if lines and lines[-1] == "":
        lines.pop()
    while len(lines) > count and not lines[-1].strip():
        lines.pop()  # empty lines behind the last example's, as editors leave them
    return lines


def in_order(
    said: Sequence[str], examples: Sequence[Example], tables: Tables | None, dialect: Dialects, where: str
) -> dict[str, str]:
    """What was predicted by example id, of a prediction an example; `where` is what stands before the number of one."""
    plain = [_without_database(text, example.db_id) for text, example in zip(said, examples, strict=True)]
    if tables is not None:
        _require_aligned(plain, examples, tables, dialect, where)
    return {example.example_id: text for example, text in zip(examples, plain, strict=True)}


def _without_database(text: str, db_id: str) -> str:
    """PICARD's models say `db_id | SELECT ...`."""
    name, bar, rest = text.partition("|")
    return rest.strip() if bar and name.strip() == db_id else text


def require_numbered(numbers: Mapping[int, int], where: str, what: str) -> None:
    """Refuse numbers that are not those of their places, counted from 0 or from 1."""
    first = next((int(number == place + 1) for place, number in numbers.items()), 0)
    for place, number in numbers.items():
        if number != place + first:
            raise KidpipeError(
                f"the {what} are numbered, and this is number {number}",
                where=f"{where} {place + 1}",
                fix=f"a {what.removesuffix('s')} an example, in order: numbered from 0 or 1, or not at all",
            )


def _without_numbers(lines: list[str], path: Path) -> list[str]:
    """The lines without their numbers, where each that is not empty begins with one and a tab, as no SQL does."""
    parts = {place: line.partition("\t") for place, line in enumerate(lines) if line.strip()}
    if not parts or not all(tab and number.strip().isdecimal() for number, tab, _rest in parts.values()):
        return lines
    require_numbered({place: int(number) for place, (number, _tab, _rest) in parts.items()}, f"{path}, line", "lines")
    return [parts[place][2] if place in parts else "" for place in range(len(lines))]


def _has_column(lines: Iterable[str], names: AbstractSet[str]) -> bool:
    """Whether the lines end in a column of db_ids, known or not, rather than have tabs in their SQL."""
    ends = [line.rpartition("\t") for line in lines if line.strip()]
    known = sum(last.strip(" ") in names for _sql, tab, last in ends if tab)
    single = sum("\t" not in sql and last.strip(" ").isidentifier() for sql, tab, last in ends if tab)
    return max(known, single) > len(ends) / 2


def other_database(named: str, home: str, where: str) -> KidpipeError:
    """What is wrong with a prediction that names a database which is not its example's."""
    return KidpipeError(
        f"a prediction for database {named!r} where the example is on {home!r}",
        where=where,
        fix="the file has slipped, or was made for other examples",
    )


def _require_aligned(said: Sequence[str], examples: Sequence[Example], tables: Tables, dialect: Dialects, where: str) -> None:
    """Refuse a file most of whose queries name tables that their example's database hasn't."""
    known = [tables(example.db_id) for example in examples]
    spoken = [dialect(example.db_id) for example in examples]
    found = [tables_named(read_answer(text, one), one) for text, one in zip(said, spoken, strict=True)]
    named = [(number, names) for number, names in enumerate(found) if names and known[number] is not None]
    strangers = [number for number, names in named if not names <= (known[number] or set())]
    if named and len(strangers) > (1 - _LEAST_AT_HOME) * len(named):
        raise KidpipeError(
            f"{len(strangers)} of {len(named)} predictions name tables that their database doesn't have",
            where=f"{where} {strangers[0] + 1} is the first",
            fix="the file has slipped by some lines, or was made for other examples",
        )


def tables_named(sql: str, dialect: str = "sqlite") -> set[str]:
    """The names after FROM and JOIN, in lower case, without schemas; not those that a WITH clause or a subquery defines."""
    solid = [token for token in tokens(sql, dialect) if token.kind is not TokenKind.SPACE]
    names = {
        _table_at(solid, number + 1)
        for number, token in enumerate(solid[:-1])
        if (token.is_word("FROM") or token.is_word("JOIN")) and _is_name(solid[number + 1])
    }
    defined = {
        token.text.strip('"`[]').lower()
        for token, following, third in zip(solid, solid[1:], solid[2:], strict=False)
        if following.is_word("AS") and third.text == "("
    }
    return names - defined


def _table_at(solid: Sequence[Token], at: int) -> str:
    """The last part of the name that begins there: before it may stand a schema, and before that a catalogue."""
    while at + 2 < len(solid) and solid[at + 1].text == "." and _is_name(solid[at + 2]):
        at += 2
    return solid[at].text.strip('"`[]').lower()


def _is_name(token: Token) -> bool:
    return token.kind in (TokenKind.WORD, TokenKind.QUOTED)
