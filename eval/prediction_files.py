"""Predictions made elsewhere in (our JSON Lines, Spider's line file, BIRD's JSON), predicted SQL by example id out.

Counts, ids and databases are checked: a file that has slipped by a line is refused, never scored.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from pathlib import Path
from typing import Any

from kidcore.errors import KidpipeError
from kidcore.sql.datasets import Example
from kidcore.sql.lexer import TokenKind, tokens

Tables = Callable[[str], AbstractSet[str] | None]
"""Table names of a db_id in lower case; None where they can't be read."""
_BIRD_MARK = "\t----- bird -----\t"
_ID_KEYS = ("example_id", "id", "question_id")
_SQL_KEYS = ("prediction", "predicted_sql", "pred", "sql", "SQL", "query")
_LEAST_AT_HOME = 0.5
"""Share of a line file's queries that must name tables of their example's database."""


def read_predictions(path: Path, examples: Sequence[Example], tables: Tables | None = None) -> dict[str, str]:
    """Predicted SQL by example id.

    Args:
        path: the file; its form is told by its content.
        examples: what was asked, in the data set's order.
        tables: the tables of each database; with them, a line file that has slipped by some lines is found out.

    Raises:
        KidpipeError: the file is missing or malformed, has too many or too few rows, or rows that belong elsewhere.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KidpipeError(f"cannot read predictions: {error}", where=str(path), fix="check the path of --predictions") from error
    head = text.lstrip()[:1]
    if path.suffix == ".jsonl" or head == "[":
        return _from_objects(_json(text, path) if head == "[" else _json_lines(text, path), path, examples)
    if head == "{":
        return _from_mapping(_json(text, path), path, examples)
    return _from_lines(text, path, examples, tables)


def _from_objects(rows: Sequence[Any], path: Path, examples: Sequence[Example]) -> dict[str, str]:
    predictions: dict[str, str] = {}
    known = _ids(examples)
    for number, row in enumerate(rows, 1):
        id_key = next((key for key in _ID_KEYS if isinstance(row, dict) and key in row), None)
        sql_key = next((key for key in _SQL_KEYS if isinstance(row, dict) and key in row), None)
        if id_key is None or sql_key is None:
            raise KidpipeError(
                "a prediction needs an id and its SQL",
                where=f"{path}, row {number}",
                fix=f"give it a key of {', '.join(_ID_KEYS)} and one of {', '.join(_SQL_KEYS)}",
            )
        example_id = known.get(str(row[id_key]))
        if example_id is None or example_id in predictions:
            fault = "belongs to no example" if example_id is None else "occurs twice"
            raise KidpipeError(f"the id {row[id_key]!r} {fault}", where=f"{path}, row {number}", fix=_looks_like(examples))
        predictions[example_id] = row[sql_key] if isinstance(row[sql_key], str) else ""
    return predictions


def _from_mapping(mapping: Any, path: Path, examples: Sequence[Example]) -> dict[str, str]:
    """BIRD's form: {key: "SQL \\t----- bird -----\\t db_id"}, keys are positions or question ids."""
    if not isinstance(mapping, dict):
        raise KidpipeError("not a JSON object of predictions", where=str(path), fix="give {id: SQL}")
    parts = {str(key): _split_bird(value) for key, value in mapping.items()}
    known = _ids(examples)
    by_position = {str(number): example.example_id for number, example in enumerate(examples)}
    by_id = {example.example_id: example for example in examples}
    faults = []
    for keys, name in ((known, "ids"), (by_position, "positions")):
        strangers = [key for key in parts if key not in keys]
        elsewhere = [key for key, (_sql, db_id) in parts.items() if key in keys and db_id not in ("", by_id[keys[key]].db_id)]
        if not strangers and not elsewhere:
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


def _from_lines(text: str, path: Path, examples: Sequence[Example], tables: Tables | None) -> dict[str, str]:
    """Spider's form: line n is example n's SQL, perhaps with a tab and the db_id."""
    lines = text.split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    if len(lines) != len(examples):
        raise KidpipeError(
            f"{len(lines)} lines of predictions for {len(examples)} examples",
            where=str(path),
            fix="one line an example, in order; an empty line where there is no prediction, no line breaks inside SQL",
        )
    sqls = []
    for number, (line, example) in enumerate(zip(lines, examples, strict=True), 1):
        sql, tab, last = line.rstrip("\r").rpartition("\t")
        has_database = bool(tab) and last.strip().isidentifier()
        if has_database and last.strip() != example.db_id:
            raise KidpipeError(
                f"a prediction for database {last.strip()!r} where the example is on {example.db_id!r}",
                where=f"{path}, line {number}",
                fix="the file has slipped, or was made for other examples",
            )
        sqls.append(sql if has_database else line.rstrip("\r"))
    if tables is not None:
        _require_aligned(sqls, examples, tables, path)
    return {example.example_id: sql for example, sql in zip(examples, sqls, strict=True)}


def _require_aligned(sqls: list[str], examples: Sequence[Example], tables: Tables, path: Path) -> None:
    """Refuse a file most of whose queries name tables that their example's database hasn't."""
    known = [tables(example.db_id) for example in examples]
    named = [(number, names) for number, names in enumerate(map(tables_named, sqls)) if names and known[number] is not None]
    strangers = [number for number, names in named if not names <= (known[number] or set())]
    if named and len(strangers) > (1 - _LEAST_AT_HOME) * len(named):
        raise KidpipeError(
            f"{len(strangers)} of {len(named)} predictions name tables that their database doesn't have",
            where=f"{path}, line {strangers[0] + 1} is the first",
            fix="the file has slipped by some lines, or was made for other examples",
        )


def tables_named(sql: str) -> set[str]:
    """The names after FROM and JOIN, in lower case, without those that a WITH clause or a subquery defines."""
    solid = [token for token in tokens(sql) if token.kind is not TokenKind.SPACE]
    names = {
        following.text.strip('"`[]').lower()
        for token, following in pairwise(solid)
        if (token.is_word("FROM") or token.is_word("JOIN")) and following.kind in (TokenKind.WORD, TokenKind.QUOTED)
    }
    defined = {
        token.text.strip('"`[]').lower()
        for token, following, third in zip(solid, solid[1:], solid[2:], strict=False)
        if following.is_word("AS") and third.text == "("
    }
    return names - defined


def _split_bird(value: Any) -> tuple[str, str]:
    if not isinstance(value, str):  # BIRD's tools write a number where the model gave nothing
        return "", ""
    sql, mark, db_id = value.rpartition(_BIRD_MARK)
    return (sql.strip(), db_id.strip()) if mark else (value.strip(), "")


def _ids(examples: Sequence[Example]) -> Mapping[str, str]:
    """Ids as written here and as the data's own files have them (without the split's name)."""
    bare = {example.example_id.partition(":")[2]: example.example_id for example in examples if ":" in example.example_id}
    return {**bare, **{example.example_id: example.example_id for example in examples}}


def _looks_like(examples: Sequence[Example]) -> str:
    return f"ids here look like {', '.join(example.example_id for example in examples[:3])}"


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise KidpipeError(f"malformed JSON: {error.msg}", where=f"{path}, line {error.lineno}", fix="mend that line") from None


def _json_lines(text: str, path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise KidpipeError(f"malformed JSON: {error.msg}", where=f"{path}, line {number}", fix="mend that line") from None
    return rows
