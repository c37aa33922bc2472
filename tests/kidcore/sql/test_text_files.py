"""Files that people make: read where they can be read in one way, named for what they are elsewhere."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kidcore.errors import KidpipeError
from kidcore.sql import text_files
from kidcore.sql.text_files import read_json, read_rows, read_text, split_lines, visible

ROWS = [{"a": "x\u2028y\u2029z\u0085\x1c\x0b"}, {"a": "é\u202eا\u0301"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.txt"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_lines_end_at_newlines_only_whatever_the_name(tmp_path: Path, name: str, mark: str, end: str) -> None:
    text = mark + LINES.replace("\n", end) + end
    assert read_json(write(tmp_path, name, text)) == ROWS


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_one_by_any_name(tmp_path: Path, name: str, indent: int | None) -> None:
    assert read_json(write(tmp_path, name, "\ufeff" + json.dumps(ROWS, indent=indent))) == ROWS


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz", "x.JSONL.GZ", "x"])
@pytest.mark.parametrize("parts", [1, 2])
def test_gzip_is_read_whatever_the_name(tmp_path: Path, name: str, parts: int) -> None:
    half = len(LINES) // 2 if parts == 2 else 0
    data = gzip.compress(LINES[:half].encode()) + gzip.compress(LINES[half:].encode())
    assert read_json(write(tmp_path, name, data)) == ROWS
    one = gzip.compress(json.dumps(ROWS[0]).encode())
    assert read_json(write(tmp_path, name, one)) == ([ROWS[0]] if "jsonl" in name.lower() else ROWS[0])


def test_more_text_than_is_sane_in_a_small_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "x.jsonl.gz", gzip.compress(LINES.encode() + b"\n" * 10_000))
    assert read_json(path) == ROWS
    monkeypatch.setattr(text_files, "_MOST_UNZIPPED", 1000)
    with pytest.raises(KidpipeError, match="more than"):
        read_text(path)


def test_lines_end_at_carriage_returns_where_there_is_nothing_else(tmp_path: Path) -> None:
    assert read_json(write(tmp_path, "x.jsonl", LINES.replace("\n", "\r"))) == ROWS
    assert split_lines("a\rb") == ["a", "b"]
    assert split_lines("a\rb\n") == ["a\rb", ""]


def test_one_line_is_a_row_where_the_name_says_lines(tmp_path: Path) -> None:
    line = json.dumps(ROWS[0])
    assert read_json(write(tmp_path, "x.jsonl", line)) == [ROWS[0]]
    assert read_json(write(tmp_path, "x.json", line)) == ROWS[0]
    assert read_json(write(tmp_path, "y.json", json.dumps({"k": {"l": 1}, "m": 2}, indent=1))) == {"k": {"l": 1}, "m": 2}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (gzip.compress(LINES.encode(), mtime=0)[:-9], "damaged gzip"),
        (gzip.compress(LINES.encode(), mtime=0)[:20] + b"x" * 20, "damaged gzip"),
        (gzip.compress(gzip.compress(b"[]", mtime=0), mtime=0), "gzip within gzip"),
        (gzip.compress(LINES.encode("utf-16"), mtime=0), "UTF-16"),
        (b"\x28\xb5\x2f\xfdrest", "zstd"),
        (b"PK\x03\x04rest", "zip"),
        (b"PAR1rest", "Parquet"),
        (LINES.encode("utf-16"), "UTF-16"),
        (LINES.encode("utf-16-be"), "UTF-16"),
        (LINES.encode("utf-32"), "UTF-32"),
        ("caf\u00e9".encode("latin-1"), "Latin-1"),
        ('[1]\n{"a": "\u00fc"}'.encode("cp1252"), "in line 2"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' occurs twice"),
        ('{"x": {"a": 1, "a": 1}}', "'a' occurs twice"),
        ("9" * 10_000, "unreadable JSON"),
        ('{"a": 1}\n{"a": 2\n{"a": 3}', "line 2"),
        ("", "malformed JSON"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_can_not_be_read_is_named(tmp_path: Path, data: bytes | str, what: str) -> None:
    with pytest.raises(KidpipeError) as caught:
        read_json(write(tmp_path, "x.jsonl" if what == "line 2" else "x.json", data))
    assert what in str(caught.value)
    assert caught.value.fix


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / "a\x00b"):
        with pytest.raises(KidpipeError):
            read_text(path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=5
)


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.text(), _JSON), min_size=2), st.booleans(), st.sampled_from(["x.json", "x.jsonl"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_come_back(tmp_path: Path, rows: list[dict[str, Any]], escaped: bool, name: str) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows)
    path = tmp_path / name
    path.write_text(lines, encoding="utf-8", errors="surrogatepass", newline="")
    assert read_json(path) == rows
    path.write_text(json.dumps(rows, ensure_ascii=escaped), encoding="utf-8", newline="")
    assert read_json(path) == rows


_PIECES = st.sampled_from(
    ["[", "]", "{", "}", ",", ":", '"a"', "1", "[1]", '{"a": 1}', '{"a": 1, "a": 2}', " ", "\n", "\r", "\t", "x"]
)


def _read(read: Any, path: Path) -> Any:
    try:
        found = read(path)
        return list(found) if isinstance(found, Iterator) else found
    except KidpipeError:
        return "refused"


@given(
    st.lists(_PIECES, max_size=9) | st.lists(_JSON).map(lambda rows: [json.dumps(rows, indent=1)]),
    st.sampled_from(["json", "jsonl"]),
)
@example(["[", "]"], "jsonl")
@example(["[1]", "\n", "[1]"], "json")
@example(["[", "1", ",", "]"], "json")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_rows_one_at_a_time_are_those_that_come_together(tmp_path: Path, pieces: list[str], ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_text("".join(pieces), encoding="utf-8", newline="")
    assert _read(read_rows, path) == _read(read_json, path)


def test_rows_of_an_array_are_decoded_when_it_is_their_turn(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "x.json", '[\n{"a": 1},\n{"a": 2},\n{"a" 3}\n]'))
    assert [next(rows), next(rows)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(KidpipeError, match="malformed JSON") as caught:
        next(rows)
    assert caught.value.where.endswith("x.json, line 4")
    assert read_rows(write(tmp_path, "y.json", '{"b": 1}')) == {"b": 1}


@given(st.text(st.characters(categories=["Cs", "Lu", "Mn", "Cf", "Cc"])))
def test_visible_text_fits_every_file_and_leaves_whole_text_alone(text: str) -> None:
    assert visible(visible(text)).encode() == visible(text).encode()
    whole = text.encode("utf-8", "ignore").decode()
    assert visible(whole) == whole
