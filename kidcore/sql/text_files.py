"""A file of text, JSON or JSON Lines in; its text, its document or its rows out, or an error that says what the file is instead.

For files that people make: what can be read in one way only is read (byte order marks, CRLF, JSON Lines called .json and an array
called .jsonl, gzip), what can't be is named (other archives, UTF-16, Latin-1), and a key that occurs twice is refused.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
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


def read_json_lines(path: Path) -> Iterator[Any] | None:
    """The rows of a file that is JSON Lines by its name and its first character, one at a time; None for any other.

    What `read_json` gives of it, without the rows being in memory together. Raises as that does.
    """
    if ending(path) not in _LINES:
        return None
    text = read_text(path)
    if text.lstrip(" \t\r\n")[:1] == "[" or "\n" not in text:
        return None
    return _rows(text, str(path))


def _rows(text: str, where: str) -> Iterator[Any]:
    start, number = 0, 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        number += 1
        if line := text[start:end].strip(" \t\r"):
            yield parse_json(line, where, number)
        start = end + 1


def read_json(path: Path) -> Any:
    """The JSON document, or the rows of JSON Lines as a list. Raises as `read_text` and `parse_document`."""
    return parse_document(read_text(path), path)


def parse_document(text: str, path: Path) -> Any:
    """The JSON document in a file's text, or the rows of JSON Lines as a list: the content tells which, not the name.

    Lines end at newlines only: U+2028, U+0085 and their kin are text. Blank lines are skipped.

    Raises:
        KidpipeError: malformed or too deeply nested JSON, or an object with a key twice (with its line).
    """
    first = text.lstrip(" \t\r\n")[:1]
    lines = [line.strip(" \t\r") for line in split_lines(text)]
    filled = sum(map(bool, lines))
    is_lines = ending(path) in _LINES and first != "["
    if first == "{" and filled > 1 and not is_lines:
        is_lines = all(line.startswith("{") for line in lines if line)
    if first == "[" and filled > 1:
        is_lines = all(line.startswith("[") and line.endswith("]") for line in lines if line)
    if not is_lines:
        return parse_json(text, str(path), 1)
    return [parse_json(line, str(path), number) for number, line in enumerate(lines, 1) if line]


def parse_json(text: str, where: str, line: int) -> Any:
    """The JSON value that `text` is; `line` is the number of its first line in the file `where`."""
    place = f"{where}, line {line}"
    try:
        return _DECODER.decode(text)
    except _RepeatedKey as error:
        place = where if "\n" in text.strip() else place
        raise KidpipeError(f"the key {error.key!r} occurs twice in one object", where=place, fix="leave one out") from None
    except json.JSONDecodeError as error:
        place = f"{where}, line {line + error.lineno - 1}"
        raise KidpipeError(f"malformed JSON: {error.msg}", where=place, fix="mend that line") from None
    except RecursionError:
        raise KidpipeError("JSON nested too deeply to be read", where=place, fix="mend that line") from None
    except ValueError as error:  # an integer of thousands of digits
        raise KidpipeError(f"unreadable JSON: {error}", where=place, fix="mend that line") from None


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


# Made once: json.loads would make one for each of a million lines.
_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _not_utf8(path: Path, what: str, encoding: str) -> KidpipeError:
    said = what if what.startswith("not ") else f"not UTF-8 but {what}"
    fix = f"save the file as UTF-8: iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}"
    return KidpipeError(said, where=str(path), fix=fix)


def visible(text: str) -> str:
    """The text with lone surrogates (halves of characters, undecodable bytes) written as \\uXXXX: any file can hold that."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
