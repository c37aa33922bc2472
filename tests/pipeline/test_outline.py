"""What is kept of a large data set says what reading it says, as long as its bytes are the same; and nothing is read then."""

import json
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kidcore.config.config import DataSettings
from kidcore.config.digests import FileDigests
from kidcore.errors import KidpipeError
from kidcore.store.store import Store
from kidpipe.commands.next_command import after_evaluation
from kidpipe.commands.session import open_session
from pipeline import outline
from pipeline.outline import OUTLINE, Outline, UnreadExamples, read_outlined, split_parts


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSettings:
    """A data set that counts as large, of which one row can't be used."""
    monkeypatch.setattr(outline, "LARGE_BYTES", 1)
    for number in range(3):
        (tmp_path / "databases" / f"d{number}").mkdir(parents=True)
        (tmp_path / "databases" / f"d{number}" / f"d{number}.sqlite").write_bytes(b"")
    write(tmp_path, 50)
    return DataSettings(path=str(tmp_path), layout="jsonl")


def write(folder: Path, rows: int) -> None:
    asked = [{"db_id": f"d{n % 3}", "question": f"{n}, größer?", "query": f"SELECT {n}"} for n in range(rows)]
    asked[7]["query"] = ""
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")


def look(data: DataSettings, folder: Path, shard_rows: int = 8) -> tuple[bool, Outline]:
    """Whether nothing was read, and what it says."""
    dataset, found = read_outlined(data, shard_rows, Store(folder), FileDigests(None))
    is_unread = isinstance(dataset.examples, UnreadExamples)
    assert found == Outline.of(list(dataset.examples), shard_rows)
    assert len(dataset.examples) == found.num_examples
    return is_unread, found


def test_what_is_kept_says_what_reading_says(data: DataSettings, tmp_path: Path) -> None:
    store = tmp_path / "artifacts"
    is_unread, first = look(data, store)
    assert not is_unread
    assert sum(first.askers.values()) == 49
    assert look(data, store) == (True, first)
    dataset, found = read_outlined(data, 8, Store(store), FileDigests(None))
    parts = split_parts(dataset, found, FileDigests(None))
    assert [part.rows for part in parts] == [part.rows for part in first.parts]
    assert dataset.examples[3:5] == list(dataset.examples)[3:5]


def test_other_bytes_or_another_choice_are_read_anew(data: DataSettings, tmp_path: Path) -> None:
    store = tmp_path / "artifacts"
    look(data, store)
    assert not look(data.model_copy(update={"limit": 20}), store)[0]
    assert not look(data.model_copy(update={"sample": 20, "sample_seed": 3}), store)[0]
    assert not look(data, store, shard_rows=4)[0]
    assert look(data, store, shard_rows=4)[0]
    write(tmp_path, 51)
    is_unread, found = look(data, store, shard_rows=4)
    assert (is_unread, found.num_examples) == (False, 51)


@pytest.mark.parametrize("text", ["", "{", '{"made_from": 1}', "[]", "null"])
def test_what_was_kept_and_cannot_be_read_is_made_again(data: DataSettings, tmp_path: Path, text: str) -> None:
    store = tmp_path / "artifacts"
    look(data, store)
    known = json.loads((store / OUTLINE).read_text())["made_from"]
    (store / OUTLINE).write_text(text.replace("1", json.dumps(known)))
    assert not look(data, store)[0]
    assert look(data, store)[0]


def test_what_cannot_be_read_is_refused_though_it_was_outlined(data: DataSettings, tmp_path: Path) -> None:
    look(data, tmp_path / "artifacts")
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(KidpipeError, match="malformed JSON") as caught:
        look(data, tmp_path / "artifacts")
    assert "line 51" in caught.value.where


def test_a_question_to_ask_is_shown_without_reading_all(data: DataSettings, tmp_path: Path) -> None:
    flags = {"data.path": data.path, "data.layout": data.layout, "store.path": str(tmp_path / "artifacts")}
    session = open_session(None, [], flags, use_file=False)
    _, known = look(data, session.store.root, session.config.ingest.shard_rows)
    for number in range(3):
        with closing(sqlite3.connect(tmp_path / "databases" / f"d{number}" / f"d{number}.sqlite")) as connection:
            connection.execute("CREATE TABLE t (a INT)")
    asked = shlex.split(after_evaluation(session, ""))
    assert asked[:2] == ["kidpipe", "ask"]
    assert asked[2] in {example.question for example in known.sample}
