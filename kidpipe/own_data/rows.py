"""A file, a folder or the name of a Hugging Face data set in; its rows as plain dictionaries out.

A row that is a chat has what was asked and answered in it under names of their own, beside the chat.
"""

import csv
import importlib.util
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from kidcore.errors import KidpipeError, first_line
from kidcore.sql.text_files import ending, read_json, read_text

Row = dict[str, Any]
_TABLES = (".csv", ".tsv", ".parquet")
_JSON = (".json", ".jsonl", ".ndjson")
_ARCHIVES = (".zst", ".xz", ".bz2", ".zip")
_SPLITS = ("train", "training")
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]+)?\..+")
"""A part of a split, as data sets of the Hugging Face Hub are stored."""
_CHATS = ("messages", "conversations", "conversation")
_ASKED, _ANSWERED = "user message", "assistant message"
_SPEAKERS = {"system": "system message", "user": _ASKED, "human": _ASKED, "assistant": _ANSWERED, "gpt": _ANSWERED}
"""Who speaks in a chat (OpenAI's, ShareGPT's words), and the column that it becomes."""


def read_rows(questions: str) -> tuple[list[Row], str]:
    """The rows, and what they were read from.

    Args:
        questions: a csv, tsv, json, jsonl (each also .gz) or parquet file; a folder that holds one of them, the parts of a split
            (`train-00000-of-00002.parquet`, also in `data/` below it) or a data set saved by `datasets`; or the name of a data
            set on the Hugging Face Hub.

    Raises:
        KidpipeError: it is none of these, or cannot be read.
    """
    rows, origin = _read(questions)
    return [_with_turns(row) for row in rows], origin


def _with_turns(row: Row) -> Row:
    """The row with what is said in its chat, where it is one of a single question and its answer."""
    turns: list[Any] = next((row[name] for name in _CHATS if isinstance(row.get(name), list)), [])
    said = [(column, _word(turn, "content", "value")) for turn in turns if (column := _SPEAKERS.get(_word(turn, "role", "from")))]
    columns = [column for column, _text in said]
    return row | dict(said) if (columns.count(_ASKED), columns.count(_ANSWERED)) == (1, 1) else row


def _word(turn: Any, *names: str) -> str:
    return next((turn[name] for name in names if isinstance(turn.get(name), str)), "") if isinstance(turn, dict) else ""


def _read(questions: str) -> tuple[list[Row], str]:
    path = Path(questions).expanduser()
    if path.is_file():
        return _read_file(path), str(path)
    if path.is_dir():
        return _read_folder(path)
    if path.exists() or ending(path) in (*_TABLES, *_JSON) or questions.startswith((".", "/", "~")):
        raise KidpipeError(f"no such file: {path}", where="--questions", fix="name a csv, tsv, json, jsonl or parquet file")
    return _read_hub(questions), questions


def _read_file(path: Path) -> list[Row]:
    suffix = ending(path)
    try:
        if suffix == ".parquet":
            return pl.read_parquet(path, glob=False).to_dicts()
        if suffix in (".csv", ".tsv"):
            return _read_table(path, suffix)
    except (pl.exceptions.PolarsError, ValueError, OSError) as error:
        first = first_line(error)
        raise KidpipeError(f"cannot be read: {first}", where=str(path), fix="save it as UTF-8 csv, json or jsonl") from None
    if suffix in _JSON:
        return _read_json(path)
    if suffix in _ARCHIVES:
        read_text(path)  # says what it is
    raise KidpipeError(
        f"{suffix or 'a file without an ending'} is not read", where=str(path), fix="csv, tsv, json, jsonl or parquet"
    )


def _read_table(path: Path, suffix: str) -> list[Row]:
    text = read_text(path)
    end = re.search(r"\r\n|\r|\n", text)
    head = text[: end.start()] if end else text
    text = text.replace("\r", "\n") if end and end.group() == "\r" else text
    # The semicolon of spreadsheets in many languages, or tabs whatever the file is called; the first line tells, quotes aside.
    separator = max("\t,;|" if suffix == ".tsv" else ",;\t|", key=re.sub('"[^"]*"', "", head).count)
    # Everything as text: a question that is a number stays what was written.
    try:
        return pl.read_csv(text.encode(), separator=separator, infer_schema=False, encoding="utf8").to_dicts()
    except pl.exceptions.ComputeError:
        if wide := _first_wide(text, separator):
            raise ValueError(wide) from None
        raise


def _first_wide(text: str, separator: str) -> str:
    """The first row with more fields than the header has, in words: SQL with commas outside quotes; empty where there is none."""
    table = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        width = len(next(table, []))
        number = next((len(row) for row in table if len(row) > width), 0)
    except csv.Error:
        return ""
    says = (
        f"line {table.line_num} has {number} fields and the header {width}; a text with {separator!r} in it has to be in quotes"
    )
    return says if number else ""


def _read_json(path: Path) -> list[Row]:
    """An array of objects, or one object a line, whatever the file is called."""
    found = read_json(path)
    if isinstance(found, dict):
        # One row in JSON Lines by another name, all rows under one key, or a data frame's columns.
        lists = [value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        found = lists[0] if len(lists) == 1 else _of_frame(found) or [found]
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise KidpipeError("neither a JSON array of objects nor JSON Lines", where=str(path), fix="give an object a question")
    return found


def _of_frame(found: Mapping[str, Any]) -> list[Row]:
    """The rows of an object that is a table, as pandas writes one: by its columns, or by its rows' numbers; none of another."""
    parts = list(found.values())
    if all(isinstance(part, dict) for part in parts):
        if all(name.isdecimal() for name in found):
            return parts
        columns = {name: list(part.values()) for name, part in found.items()}
        is_table = len({tuple(part) for part in parts}) == 1
    else:
        columns = {name: part for name, part in found.items() if isinstance(part, list)}
        is_table = len(columns) == len(found) and len({len(part) for part in parts}) == 1
    # Of a single column nothing says that it is one.
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] if is_table and parts[1:] else []


def _read_folder(folder: Path) -> tuple[list[Row], str]:
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _read_saved(folder), str(folder)
    found = _tables_in(folder) or _tables_in(folder / "data")
    named = [path for path in found if path.stem.lower().startswith(_SPLITS)] or found
    parts = _parts(named)
    if len(named) == 1:
        return _read_file(named[0]), str(named[0])
    if parts:
        return [row for path in parts for row in _read_file(path)], f"{parts[0]} and {len(parts) - 1} more"
    listing = ", ".join(path.name for path in named[:8]) or "none"
    raise KidpipeError(
        f"{len(named)} files in this folder could hold the questions: {listing}", where=str(folder), fix="name the file itself"
    )


def _tables_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if not path.name.startswith("."))  # macOS leaves ._x.csv beside x.csv
    return sorted(path for path in files if ending(path) in (*_TABLES, *_JSON))


def _parts(files: Sequence[Path]) -> list[Path]:
    """The files, where they are the parts of one split; none where they are something else.

    Raises:
        KidpipeError: a part of it is missing.
    """
    found = [part for path in files if (part := _SHARD.fullmatch(path.name))]
    splits = {(part["split"], int(part["count"])) for part in found}
    if len(found) < len(files) or len(splits) != 1:
        return []
    ((_split, count),) = splits
    lacking = sorted(set(range(count)) - {int(part["number"]) for part in found})
    if lacking:
        raise KidpipeError(
            f"{len(lacking)} of {count} parts are not there: number {lacking[0]} is the first",
            where=str(files[0].parent),
            fix="fetch them too, or name a file for its questions alone",
        )
    return list(files)


def _require_datasets(what: str) -> None:
    if importlib.util.find_spec("datasets") is None:
        raise KidpipeError(
            f"{what} needs the library datasets, which is not installed", where="--questions", fix="pip install datasets"
        )


def _read_saved(folder: Path) -> list[Row]:
    _require_datasets("a saved data set")
    # Optional, and heavy: only who has such a folder loads it.
    from datasets import load_from_disk

    return _train(load_from_disk(str(folder)), str(folder))


def _read_hub(name: str) -> list[Row]:
    _require_datasets(f"{name!r} is no file or folder here; a data set of the Hugging Face Hub")
    # As above.
    from datasets import load_dataset

    try:
        return _train(load_dataset(name), name)
    except (OSError, ValueError, RuntimeError) as error:
        first = first_line(error)
        raise KidpipeError(
            f"no file or folder is called {name!r}, and no data set of that name can be had: {first}",
            where="--questions",
            fix="check the name and the connection, or name a file",
        ) from None


def _train(found: Any, name: str) -> list[Row]:
    """The rows of the training split, or of the only one."""
    splits: Sequence[str] = list(found) if hasattr(found, "keys") else []
    if not splits:
        return list(found)
    chosen = next((split for split in splits if split in _SPLITS), splits[0] if len(splits) == 1 else None)
    if chosen is None:
        raise KidpipeError(f"none of the splits is called train: {', '.join(splits)}", where=name, fix="save one split to a file")
    return list(found[chosen])
