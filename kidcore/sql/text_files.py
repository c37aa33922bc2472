"""A file of text, JSON or JSON Lines in; its text, its document or its rows out, or an error that says what the file is instead.

For files that people make: what can be read in one way only is read (byte order marks, CRLF, JSON Lines called .json and an array
called .jsonl, gzip), what can't be is named (other archives, UTF-16, Latin-1), and a key that occurs twice is refused.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from kidcore.errors import KidpipeError

_GZIP = b"\x1f\x8b"
_MOST_UNZIPPED = 1 << 30
"""Bytes. A small file can hold more text than memory does."""
_MAGIC = (
    (_GZIP, "gzip within gzip", "gunzip it first"),
    (b"PK\x03\x04", "a zip archive", "unzip it first"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd it first"),
    (b"\xfd7zXZ\x00", "xz", "unxz it first"),
    (b"BZh", "bzip2", "bunzip2 it first"),
    (b"PAR1", "a Parquet file", "save it as JSON Lines"),
    (b"SQLite format 3\x00", "an SQLite database", "name a file of text"),
)
_WIDE = ((b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
_BOM = b"\xef\xbb\xbf"
_LINES = (".jsonl", ".ndjson")
_SPACE = " \t\r\n"
"""What JSON has between its parts."""
_SPACES = re.compile(f"[{_SPACE}]*")
_SHARE_OF_NULS = 0.2
"""In the first bytes; text in UTF-16 without a byte order mark has about half, UTF-8 none."""


def read_text(path: Path) -> str:
    """The file's text, or that in a gzip file, without a byte order mark; line ends are kept.

    Raises:
        KidpipeError: it can't be opened, holds more than 1 GiB, or is not UTF-8 text; says what it looks like.
    """
    try:
        if not path.is_file():
            raise KidpipeError("no such file" if not path.exists() else "not a file", where=str(path), fix="check the path")
        data = path.read_bytes()
        data = _unzip(data, path) if data.startswith(_GZIP) else data
    except (OSError, ValueError) as error:
        raise KidpipeError(f"cannot read the file: {error}", where=str(path), fix="check the path") from error
    for magic, name, fix in _MAGIC:
        if data.startswith(magic):
            raise KidpipeError(f"not text but {name}", where=str(path), fix=fix)
    for mark, name in _WIDE:
        if data.startswith(mark):
            raise _not_utf8(path, f"{name} text, by its byte order mark", name)
    head = data[:1000]
    if head.count(0) > _SHARE_OF_NULS * len(head):
        raise _not_utf8(path, "text that looks like UTF-16 (every other byte is zero)", "UTF-16")
    try:
        return data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start + (len(_BOM) if data.startswith(_BOM) else 0)
        where = f"byte {at}, {data[at]:#04x}, in line {data[:at].count(10) + 1}"
        raise _not_utf8(path, f"not UTF-8 text ({where}); it looks like Latin-1 (Windows-1252)", "WINDOWS-1252") from None


def _unzip(data: bytes, path: Path) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            found = file.read(_MOST_UNZIPPED + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise KidpipeError(f"a damaged gzip file: {error}", where=str(path), fix="fetch or make it again") from None
    if len(found) > _MOST_UNZIPPED:
        raise KidpipeError(
            f"a gzip file of more than {_MOST_UNZIPPED >> 20} MiB of text",
            where=str(path),
            fix="gunzip it first, if it can be trusted",
        )
    return found


def ending(path: Path) -> str:
    """The ending of the file's name in lower case, that before `.gz` for `questions.jsonl.gz`."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def split_lines(text: str) -> list[str]:
    """The lines of a file, which end at newlines only, or at carriage returns where there is no newline at all."""
    return text.split("\n" if "\n" in text else "\r")


def read_rows(path: Path) -> Any:
    """The rows of a JSON array or of JSON Lines as an iterator, so that not all are in memory together; else the document.

    The rows are what `read_json` gives. Raises as that does, for what is wrong with a row when it is its turn.
    """
    text = read_text(path)
    if _is_lines(text, path):
        return (parse_json(line, str(path), number) for number, line in _lines(text))
    return _elements(text, str(path)) if text.lstrip(_SPACE)[:1] == "[" else parse_json(text, str(path), 1)


def _elements(text: str, where: str) -> Iterator[Any]:
    """The elements of the array that the text is, each decoded when it is asked for."""
    place = _after_space(text, text.index("[") + 1)
    is_over = text.startswith("]", place)
    while not is_over:
        try:
            row, place = _DECODER.raw_decode(text, place)
            place = _after_space(text, place)
            is_over = text.startswith("]", place)
            if not is_over and not text.startswith(",", place):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
        except _FAULTS as error:
            raise _told(error, text, where, 1) from None
        yield row
        place = place if is_over else _after_space(text, place + 1)
    if (rest := _after_space(text, place + 1)) < len(text):
        raise _told(json.JSONDecodeError("Extra data", text, rest), text, where, 1)


def _after_space(text: str, place: int) -> int:
    """The first place from there on that holds something."""
    found = _SPACES.match(text, place)
    assert found is not None
    return found.end()


def read_json(path: Path) -> Any:
    """The JSON document, or the rows of JSON Lines as a list. Raises as `read_text` and `parse_document`."""
    return parse_document(read_text(path), path)


def parse_document(text: str, path: Path) -> Any:
    """The JSON document in a file's text, or the rows of JSON Lines as a list: the content tells which, not the name.

    Lines end at newlines only: U+2028, U+0085 and their kin are text. Blank lines are skipped.

    Raises:
        KidpipeError: malformed or too deeply nested JSON, or an object with a key twice (with its line).
    """
    if not _is_lines(text, path):
        return parse_json(text, str(path), 1)
    return [parse_json(line, str(path), number) for number, line in _lines(text)]


def _is_lines(text: str, path: Path) -> bool:
    first = text.lstrip(_SPACE)[:1]
    if ending(path) in _LINES and first != "[":
        return True
    if first not in ("{", "["):
        return False
    # One line alone is a document. Of others as few are looked at as say what it is.
    is_long = next(islice(_lines(text), 1, None), None) is not None
    return is_long and all(line.startswith(first) and (first == "{" or line.endswith("]")) for _number, line in _lines(text))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that hold something, one at a time, with their numbers; they end as those of `split_lines`."""
    end_of_line = "\n" if "\n" in text else "\r"
    start, number = 0, 0
    while start < len(text):
        end = text.find(end_of_line, start)
        end = len(text) if end < 0 else end
        number += 1
        if line := text[start:end].strip(" \t\r"):
            yield number, line
        start = end + 1


def parse_json(text: str, where: str, line: int) -> Any:
    """The JSON value that `text` is; `line` is the number of its first line in the file `where`."""
    try:
        return _DECODER.decode(text)
    except _FAULTS as error:
        raise _told(error, text, where, line) from None


def _told(error: Exception, text: str, where: str, line: int) -> KidpipeError:
    """What is wrong with JSON, for a person."""
    place = f"{where}, line {line}"
    if isinstance(error, _RepeatedKey):
        place = where if "\n" in text.strip() else place
        return KidpipeError(f"the key {error.key!r} occurs twice in one object", where=place, fix="leave one out")
    if isinstance(error, json.JSONDecodeError):
        place = f"{where}, line {line + error.lineno - 1}"
        return KidpipeError(f"malformed JSON: {error.msg}", where=place, fix="mend that line")
    if isinstance(error, RecursionError):
        return KidpipeError("JSON nested too deeply to be read", where=place, fix="mend that line")
    # An integer of thousands of digits.
    return KidpipeError(f"unreadable JSON: {error}", where=place, fix="mend that line")


class _RepeatedKey(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _value in pairs]
        raise _RepeatedKey(next(key for number, key in enumerate(keys) if key in keys[:number]))
    return found


_FAULTS = (_RepeatedKey, RecursionError, ValueError)
# Made once: json.loads would make one for each of a million lines.
# NaN is what Python's JSON has where a data frame has nothing.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=lambda word: None if word == "NaN" else float(word))


def _not_utf8(path: Path, what: str, encoding: str) -> KidpipeError:
    said = what if what.startswith("not ") else f"not UTF-8 but {what}"
    fix = f"save the file as UTF-8: iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}"
    return KidpipeError(said, where=str(path), fix=fix)


def visible(text: str) -> str:
    """The text with lone surrogates (halves of characters, undecodable bytes) written as \\uXXXX: any file can hold that."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
