"""Predictions made elsewhere in (our JSON Lines, Spider's line file, BIRD's JSON), what was predicted by example id out.

Counts, ids, databases and keys are checked: a file that has slipped by a line, or whose predictions stand under a key that may as
well hold the gold, is refused, never scored.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from kidcore.errors import KidpipeError
from kidcore.sql.answers import read_answer
from kidcore.sql.datasets import Example
from kidcore.sql.example_ids import places
from kidcore.sql.lexer import Token, TokenKind, tokens
from kidcore.sql.statements import begins_statement
from kidcore.sql.text_files import ending, parse_document, read_text, split_lines

Tables = Callable[[str], AbstractSet[str] | None]
"""Table names of a db_id in lower case, without schemas; None where they can't be read."""
Dialects = Callable[[str], str]
"""The dialect that a db_id's database speaks."""
_BIRD_MARK = "\t----- bird -----\t"
_ID_KEYS = ("example_id", "id", "question_id")
_SQL_KEYS = ("prediction", "predicted_sql", "pred_sql", "pred", "predicted", "predicted_query", "generated_sql")
_DATABASE_KEYS = ("db_id", "database_id", "db")
_GOLD_KEYS = ("query", "SQL", "gold", "gold_sql", "gold_query")
"""Under these data sets keep the gold."""
_KNOWN_KEYS = frozenset(
    (
        *_ID_KEYS,
        *_SQL_KEYS,
        *_DATABASE_KEYS,
        *_GOLD_KEYS,
        "sql",
        "question",
        "evidence",
        "difficulty",
        "hardness",
        "index",
        "split",
    )
)
_LEAST_AT_HOME = 0.5
"""Share of a line file's queries that must name tables of their example's database."""


def read_predictions(
    path: Path, examples: Sequence[Example], tables: Tables | None = None, dialect: Dialects = lambda _: "sqlite"
) -> dict[str, str]:
    """What was predicted by example id, as the file has it; empty where the file says that there is nothing.

    Args:
        path: the file; its form is told by its content.
        examples: what was asked, in the data set's order.
        tables: the tables of each database; with them, a line file that has slipped by some lines is found out.
        dialect: by which that is looked for.

    Raises:
        KidpipeError: the file is missing or malformed, has too many or too few rows, or rows that belong elsewhere; or a
            prediction is no text, or stands under a key that may hold the gold.
    """
    try:
        text = read_text(path)
    except KidpipeError as error:
        raise KidpipeError(f"cannot read predictions: {error.what}", where=error.where, fix=error.fix) from error
    head = text.lstrip(" \t\r\n")[:1]
    is_table = ending(path) == ".csv" or (ending(path) == ".tsv" and not begins_statement(text))
    if is_table and head not in ("[", "{"):
        fix = 'give JSON Lines of {"id": ..., "prediction": ...}, or a line of SQL an example'
        raise KidpipeError("predictions are not read from a table of columns", where=str(path), fix=fix)
    if ending(path) != ".jsonl" and head not in ("[", "{"):
        return _from_lines(text, path, examples, tables, dialect)
    found = parse_document(text, path)
    if isinstance(found, dict) and any(key in found for key in _ID_KEYS):
        found = [found]  # JSON Lines of one line, by another name
    if isinstance(found, dict) and len(found) == 1 and _is_rows(*found.values()):
        (found,) = found.values()  # rows under a word such as "predictions"
    return _from_mapping(found, path, examples) if isinstance(found, dict) else _from_objects(found, path, examples)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _from_objects(rows: Any, path: Path, examples: Sequence[Example]) -> dict[str, str]:
    if not isinstance(rows, list):
        raise KidpipeError("neither rows nor an object of predictions", where=str(path), fix="give rows with an id and its SQL")
    predictions: dict[str, str] = {}
    known = _ids(examples)
    by_id = {example.example_id: example for example in examples}
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        example_id = _id_of(row, known, where, examples)
        if example_id in predictions:
            raise KidpipeError(f"the id {example_id!r} occurs twice", where=where, fix="leave one of the two out")
        home = by_id[example_id].db_id
        stranger = next((row[key] for key in _DATABASE_KEYS if isinstance(row.get(key), str) and row[key] != home), None)
        if stranger is not None:
            raise _other_database(stranger, home, where)
        key = _sql_key(row, where)
        predictions[example_id] = _text(row[key], f"{where}, {key!r}")
    return predictions


def _id_of(row: Any, known: Mapping[str, str], where: str, examples: Sequence[Example]) -> str:
    """The example that a row belongs to."""
    keys = [key for key in _ID_KEYS if isinstance(row, dict) and key in row]
    if not keys:
        said = f"it has {', '.join(map(repr, row)) or 'no key'}" if isinstance(row, dict) else f"it is {_kind(row)}"
        fix = f"give it a key of {', '.join(_ID_KEYS)} and one of {', '.join(_SQL_KEYS)}"
        raise KidpipeError(f"a prediction needs an id and its SQL; {said}", where=where, fix=fix)
    found = {known.get(str(row[key])) for key in keys} - {None}
    if not found:
        raise KidpipeError(f"the id {row[keys[0]]!r} belongs to no example", where=where, fix=_looks_like(examples))
    if len(found) > 1:
        shown = " and ".join(f"{key} {row[key]!r}" for key in keys)
        raise KidpipeError(f"{shown} belong to different examples", where=where, fix="leave one of them out")
    (example_id,) = found
    assert example_id is not None
    return example_id


def _sql_key(row: Mapping[str, Any], where: str) -> str:
    """The key that holds the row's prediction. `sql` does only where no other key could: in some data sets it holds the gold."""
    keys = [key for key in _SQL_KEYS if key in row]
    if len({str(row[key]) for key in keys}) > 1:
        shown = ", ".join(map(repr, keys))
        raise KidpipeError(
            f"different predictions under {shown}", where=where, fix=f"leave one of them; best is {_SQL_KEYS[0]!r}"
        )
    if keys:
        return keys[0]
    others = [key for key in row if key not in _KNOWN_KEYS]
    if "sql" in row and not others:
        return "sql"
    golds = [key for key in ("sql", *_GOLD_KEYS) if key in row]
    told = f" ({', '.join(map(repr, golds))} may hold the gold)" if golds else ""
    raise KidpipeError(
        f"a prediction needs an id and its SQL; which key holds the SQL can't be told from {', '.join(map(repr, row))}{told}",
        where=where,
        fix=f"put the prediction under {_SQL_KEYS[0]!r}",
    )


def _text(value: Any, where: str) -> str:
    """A prediction; null is none."""
    if value is None:
        return ""
    if not isinstance(value, str):
        fix = (
            "give one text an example; of several samples choose one first" if isinstance(value, list) else "give its SQL as text"
        )
        raise KidpipeError(f"a prediction is {_kind(value)}, not a text", where=where, fix=fix)
    return value


def _kind(value: Any) -> str:
    return {list: "a list", dict: "an object", bool: "true or false", type(None): "null", str: "a text"}.get(
        type(value), "a number"
    )


def _from_mapping(mapping: Mapping[str, Any], path: Path, examples: Sequence[Example]) -> dict[str, str]:
    """BIRD's form: {key: "SQL \\t----- bird -----\\t db_id"}, keys are positions or question ids."""
    parts = {key: _split_bird(value, f"{path}, {key!r}") for key, value in mapping.items()}
    known = _ids(examples)
    by_position = {str(number): example.example_id for number, example in enumerate(examples)}
    by_id = {example.example_id: example for example in examples}
    faults = []
    for keys, name in ((known, "ids"), (by_position, "positions")):
        strangers = [key for key in parts if key not in keys]
        elsewhere = [key for key, (_sql, db_id) in parts.items() if key in keys and db_id not in ("", by_id[keys[key]].db_id)]
        if not strangers and not elsewhere:
            if twice := [example_id for example_id, count in Counter(keys[key] for key in parts).items() if count > 1]:
                raise KidpipeError(f"two keys belong to {twice[0]!r}", where=str(path), fix="leave one of the two out")
            return {keys[key]: sql for key, (sql, _db_id) in parts.items()}
        fault = (
            f"{len(strangers)} are unknown" if strangers else f"{len(elsewhere)} name another database, as {elsewhere[0]!r} does"
        )
        faults.append(f"read as {name}, {fault}")
    raise KidpipeError(
        f"the keys of {len(parts)} predictions don't fit {len(examples)} examples: {'; '.join(faults)}",
        where=str(path),
        fix="check that the predictions were made for this data set",
    )


def _from_lines(text: str, path: Path, examples: Sequence[Example], tables: Tables | None, dialect: Dialects) -> dict[str, str]:
    """Spider's form: line n is example n's SQL, perhaps with a tab and the db_id behind it, or its number and a tab before it."""
    lines = [line.rstrip("\r") for line in split_lines(text)]
    if lines and lines[-1] == "":
        lines.pop()
    while len(lines) > len(examples) and not lines[-1].strip():
        lines.pop()  # empty lines behind the last example's, as editors leave them
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
            raise _other_database(last, example.db_id, f"{path}, line {number}")
        said.append(sql if is_name else line)
    if tables is not None:
        _require_aligned(said, examples, tables, dialect, path)
    return {example.example_id: answer for example, answer in zip(examples, said, strict=True)}


def _without_numbers(lines: list[str], path: Path) -> list[str]:
    """The lines without their numbers, where each that is not empty begins with one and a tab, as no SQL does."""
    parts = {place: line.partition("\t") for place, line in enumerate(lines) if line.strip()}
    if not parts or not all(tab and number.strip().isdecimal() for number, tab, _rest in parts.values()):
        return lines
    numbers = {place: int(number) for place, (number, _tab, _rest) in parts.items()}
    first = next(int(number == place + 1) for place, number in numbers.items())
    for place, number in numbers.items():
        if number != place + first:
            raise KidpipeError(
                f"the lines are numbered, and this is number {number}",
                where=f"{path}, line {place + 1}",
                fix="a line an example, in order: numbered from 0 or 1, or not at all",
            )
    return [parts[place][2] if place in parts else "" for place in range(len(lines))]


def _has_column(lines: Iterable[str], names: AbstractSet[str]) -> bool:
    """Whether the lines end in a column of db_ids, known or not, rather than have tabs in their SQL."""
    ends = [line.rpartition("\t") for line in lines if line.strip()]
    known = sum(last.strip(" ") in names for _sql, tab, last in ends if tab)
    single = sum("\t" not in sql and last.strip(" ").isidentifier() for sql, tab, last in ends if tab)
    return max(known, single) > len(ends) / 2


def _other_database(named: str, home: str, where: str) -> KidpipeError:
    return KidpipeError(
        f"a prediction for database {named!r} where the example is on {home!r}",
        where=where,
        fix="the file has slipped, or was made for other examples",
    )


def _require_aligned(said: list[str], examples: Sequence[Example], tables: Tables, dialect: Dialects, path: Path) -> None:
    """Refuse a file most of whose queries name tables that their example's database hasn't."""
    known = [tables(example.db_id) for example in examples]
    spoken = [dialect(example.db_id) for example in examples]
    found = [tables_named(read_answer(text, one), one) for text, one in zip(said, spoken, strict=True)]
    named = [(number, names) for number, names in enumerate(found) if names and known[number] is not None]
    strangers = [number for number, names in named if not names <= (known[number] or set())]
    if named and len(strangers) > (1 - _LEAST_AT_HOME) * len(named):
        raise KidpipeError(
            f"{len(strangers)} of {len(named)} predictions name tables that their database doesn't have",
            where=f"{path}, line {strangers[0] + 1} is the first",
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


def _split_bird(value: Any, where: str) -> tuple[str, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):  # BIRD's tools write a number where the model gave nothing
        return "", ""
    sql, mark, db_id = _text(value, where).rpartition(_BIRD_MARK)
    return (sql, db_id.strip()) if mark else (db_id, "")


def _ids(examples: Sequence[Example]) -> Mapping[str, str]:
    """Ids as written here, places of examples named after their content, and both without the split name where clear."""
    ids = [example.example_id for example in examples]
    named = dict(zip(places(ids), ids, strict=True)) | dict(zip(ids, ids, strict=True))
    bare = [(name.partition(":")[2], example_id) for name, example_id in named.items() if ":" in name]
    counts = Counter(name for name, _example_id in bare)
    return {name: example_id for name, example_id in bare if counts[name] == 1} | named


def _looks_like(examples: Sequence[Example]) -> str:
    return f"ids here look like {', '.join(example.example_id for example in examples[:3])}"
