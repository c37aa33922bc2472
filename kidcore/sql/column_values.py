"""A database file in, some distinct values of each column out; what a data set says of its columns, too."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kidcore.errors import KidpipeError
from kidcore.sql.database import Database, database_of

_ROWS_LOOKED_AT = 2000
"""From the start of a table, in the order it is stored in: bounded on tables of millions, and the same on every machine."""
_LONGEST_DESCRIPTION = 120
_DESCRIPTIONS = "database_description"


def distinct_values(database: Database | Path, count: int) -> Mapping[str, Mapping[str, list[Any]]]:
    """By table and column the first `count` different values, NULL left out; none where a table's rows can't be had."""
    if not count:
        return {}
    schema = database_of(database).schema(_ROWS_LOOKED_AT)
    return {
        ".".join(table.path): {
            column.name: _first_different((row[number] for row in table.samples), count)
            for number, column in enumerate(table.columns)
        }
        for table in schema.tables
    }


def _first_different(values: Iterable[Any], count: int) -> list[Any]:
    found: list[Any] = []
    for value in values:
        # 1 and 1.0 and True are equal in Python, but shown differently; one NaN is not equal to another, but shown alike.
        if value is not None and not any(type(value) is type(known) and _are_alike(value, known) for known in found):
            found.append(value)
            if len(found) == count:
                break
    return found


def _are_alike(value: Any, known: Any) -> bool:
    return bool(value == known) or (value != value and known != known)


def description_files(database: Database | Path) -> list[Path]:
    """BIRD's files of descriptions beside a database, one a table."""
    return sorted((database_of(database).path.parent / _DESCRIPTIONS).glob("*.csv"))


def column_descriptions(database: Database | Path, table: str) -> Mapping[str, str]:
    """What BIRD's database_description says of a table's columns, by column in lower case; empty without such files.

    Raises:
        KidpipeError: the file is no CSV with the columns of BIRD.
    """
    file = next((path for path in description_files(database) if path.stem.lower().strip() == table.lower()), None)
    if file is None:
        return {}
    try:
        return _described(csv.DictReader(io.StringIO(_decoded(file.read_bytes()), newline=""), skipinitialspace=True), file)
    except csv.Error as error:
        raise KidpipeError(f"malformed CSV: {error}", where=str(file), fix="save it as CSV again") from None


def _described(rows: "csv.DictReader[str]", file: Path) -> dict[str, str]:
    fields = {str(name).strip().lower(): name for name in rows.fieldnames or ()}
    if "original_column_name" not in fields:
        raise KidpipeError(
            "a file of column descriptions has no column original_column_name",
            where=str(file),
            fix="BIRD's have original_column_name, column_name, column_description, data_format, value_description",
        )
    said = [fields[name] for name in ("column_description", "value_description") if name in fields]
    found = {}
    for row in rows:
        texts = [_one_line(row[name] or "") for name in said]
        if text := _cut("; ".join(text for text in texts if text)):
            found[_one_line(row[fields["original_column_name"]] or "").lower()] = text
    return found


def _decoded(raw: bytes) -> str:
    """BIRD's files are UTF-8, some with a byte order mark, some from a spreadsheet in Windows' code page."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace").replace("\0", "")
    try:
        return raw.decode("utf-8-sig").replace("\0", "")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace").replace("\0", "")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_DESCRIPTION else text[: _LONGEST_DESCRIPTION - 1] + "…"
