"""Predictions made elsewhere in (JSON Lines, an array, Spider's line file, BIRD's JSON), what was predicted by example id out.

Counts, ids, databases and keys are checked: a file that has slipped by a line, or whose predictions stand under a key that may as
well hold the gold, is refused, never scored.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from eval.prediction_order import Dialects, Tables, are_lines, from_lines, in_order, other_database, require_numbered
from kidcore.errors import KidpipeError
from kidcore.sql.datasets import Example
from kidcore.sql.example_ids import places
from kidcore.sql.statements import begins_statement
from kidcore.sql.text_files import ending, parse_document, read_text

_BIRD_MARK = "\t----- bird -----\t"
_ID_KEYS = ("example_id", "id", "question_id")
_SQL_KEYS = ("prediction", "predicted_sql", "pred_sql", "pred", "predict", "predicted", "predicted_query", "generated_sql")
_NUMBER_KEYS = ("index", "idx", "number", "position")
"""The place of a row in its file, as some tools write it."""
_DATABASE_KEYS = ("db_id", "database_id", "db")
_GOLD_KEYS = ("query", "SQL", "gold", "gold_sql", "gold_query")
"""Under these data sets keep the gold."""
_KNOWN_KEYS = frozenset(
    (
        *_ID_KEYS,
        *_SQL_KEYS,
        *_NUMBER_KEYS,
        *_DATABASE_KEYS,
        *_GOLD_KEYS,
        "sql",
        "question",
        "evidence",
        "difficulty",
        "hardness",
        "split",
    )
)


def read_predictions(
    path: Path,
    examples: Sequence[Example],
    tables: Tables | None = None,
    dialect: Dialects = lambda _: "sqlite",
    first: int = 0,
) -> dict[str, str]:
    """What was predicted by example id, as the file has it; empty where the file says that there is nothing.

    Args:
        path: the file; its form is told by its content.
        examples: what was asked, in the data set's order.
        tables: the tables of each database; with them, a line file that has slipped by some lines is found out.
        dialect: by which that is looked for.
        first: a file without ids may be about so many of the first examples alone; 0 where about all or none.

    Raises:
        KidpipeError: the file is missing or malformed, has too many or too few rows, or rows that belong elsewhere; or a
            prediction is no text, or stands under a key that may hold the gold.
    """
    try:
        text = read_text(path)
    except KidpipeError as error:
        raise KidpipeError(f"cannot read predictions: {error.what}", where=error.where, fix=error.fix) from error
    try:
        return _read(text, path, examples, tables, dialect)
    except KidpipeError:
        if 0 < first < len(examples):
            with suppress(KidpipeError):  # what is wrong with it is said of the whole
                return _read(text, path, examples[:first], tables, dialect)
        raise


def _read(text: str, path: Path, examples: Sequence[Example], tables: Tables | None, dialect: Dialects) -> dict[str, str]:
    head = text.lstrip(" \t\r\n")[:1]
    is_table = ending(path) == ".csv" or (ending(path) == ".tsv" and not begins_statement(text))
    if is_table and head not in ("[", "{"):
        fix = 'give JSON Lines of {"id": ..., "prediction": ...}, or a line of SQL an example'
        raise KidpipeError("predictions are not read from a table of columns", where=str(path), fix=fix)
    if ending(path) != ".jsonl" and head not in ("[", "{"):
        return from_lines(text, path, examples, tables, dialect)
    try:
        found = parse_document(text, path)
    except KidpipeError:
        # Of a line of SQL an example the first may be anything that a model says.
        if ending(path) in (".json", ".jsonl", ".ndjson") or not are_lines(text, len(examples)):
            raise
        return from_lines(text, path, examples, tables, dialect)
    if isinstance(found, dict) and any(key in found for key in _ID_KEYS):
        found = [found]  # JSON Lines of one line, by another name
    if isinstance(found, dict) and len(found) == 1 and _is_rows(*found.values()):
        (found,) = found.values()  # rows under a word such as "predictions"
    if isinstance(found, dict):
        return _from_mapping(found, path, examples)
    if isinstance(found, list) and found and not any(_has_id(row) for row in found):
        return in_order(_without_ids(found, path, examples), examples, tables, dialect, f"{path}, row")
    return _from_objects(found, path, examples)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _has_id(row: Any) -> bool:
    """Whether a row has an id, or what may be one by another name: its place says nothing then."""
    return isinstance(row, dict) and any(
        key in _ID_KEYS or (key.lower().endswith(("_id", "uid", "qid")) and key not in _DATABASE_KEYS) for key in row
    )


def _without_ids(rows: Sequence[Any], path: Path, examples: Sequence[Example]) -> list[str]:
    """What rows say that have no ids: one an example, in order, as far as they tell."""
    if len(rows) != len(examples):
        raise KidpipeError(
            f"{len(rows)} predictions without an id for {len(examples)} examples",
            where=str(path),
            fix="give each a key of " + ", ".join(_ID_KEYS) + "; or one an example, in order, null where there is none",
        )
    said = []
    numbers: dict[int, int] = {}
    for place, (row, example) in enumerate(zip(rows, examples, strict=True)):
        where = f"{path}, row {place + 1}"
        if isinstance(row, dict):
            _require_home(row, example, where)
            key = _sql_key(row, where)
            said.append(_text(row[key], f"{where}, {key!r}"))
            number = next((row[key] for key in _NUMBER_KEYS if key in row), None)
            numbers |= {place: number} if isinstance(number, int) else {}
        else:
            said.append(_text(row, where))
    require_numbered(numbers, f"{path}, row", "rows")
    return said


def _require_home(row: Mapping[str, Any], example: Example, where: str) -> None:
    """Refuse a row that names another database than its example's, or, of rows without ids, another question."""
    home = example.db_id
    stranger = next((row[key] for key in _DATABASE_KEYS if isinstance(row.get(key), str) and row[key] != home), None)
    if stranger is not None:
        raise other_database(stranger, home, where)
    question = row.get("question")
    if not _has_id(row) and isinstance(question, str) and question.split() != example.question.split():
        raise KidpipeError(
            f"a prediction for the question {question[:60]!r} where the example asks {example.question[:60]!r}",
            where=where,
            fix=f"give each row a key of {', '.join(_ID_KEYS)}; or leave 'question' out, if it is worded otherwise in this order",
        )


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
        _require_home(row, by_id[example_id], where)
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
