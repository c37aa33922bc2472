"""A log that was torn is read as far as it goes, and goes on with a line of its own."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kidcore.store.log import SHARDS, append, shard_records, shards_of

RECORD = {"stage": "mask", "key": "1" * 32, "rows": 3, "seconds": 0.5, "settings": "abc"}
DAMAGE = {
    "half a line": b'{"key": "0123456789abcdef", "part": 0, "ro',
    "zeros": b"\0" * 64,
    "no UTF-8": b"\xff\xfe\x00",
    "a line of zeros": b"\0" * 64 + b"\n",
    "another object": b'{"stage": "mask"}\n',
    "another type": b'{"key": 1, "rows": "3", "seconds": null, "settings": [], "stage": "mask"}\n',
    "no object": b"[1, 2]\n3\n",
    "empty lines": b"\n\n",
    "nested": b"[" * 100_000 + b"\n",
}


@contextmanager
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What the log's reader says, whatever an earlier test has made of our loggers."""
    logger = logging.getLogger("kidcore.store.log")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.DEBUG, logger.name):
        yield
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_whole_is_read_and_the_next_line_too(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / SHARDS
    append(log, RECORD)
    with log.open("ab") as file:
        file.write(damage)
    assert shard_records(tmp_path) == [RECORD]
    append(log, RECORD | {"rows": 4})
    with heard(caplog):
        assert shard_records(tmp_path) == [RECORD, RECORD | {"rows": 4}]
    assert ("left out" in caplog.text) == (damage.strip() != b"")
    assert shard_records(tmp_path, 1) == [RECORD | {"rows": 4}]


def test_no_log_and_a_folder_in_its_place_have_no_records(tmp_path: Path) -> None:
    assert shard_records(tmp_path) == []
    (tmp_path / SHARDS).mkdir(parents=True)
    assert shard_records(tmp_path) == []


def line(key: str, **more: Any) -> dict[str, Any]:
    return {"stage": "mask", "key": key, "rows": 1, "seconds": 0.5, "settings": "s"} | more


def keys(root: Path, last: int | None = None) -> list[str]:
    return [record["key"] for record in shard_records(root, last)]


def test_lines_come_in_the_order_they_were_written_and_the_last_ones_alone_on_request(tmp_path: Path) -> None:
    for number in range(5):
        append(tmp_path / SHARDS, line(str(number)))
    assert keys(tmp_path) == ["0", "1", "2", "3", "4"]
    assert keys(tmp_path, 2) == ["3", "4"]
    assert keys(tmp_path, 99) == keys(tmp_path)


def test_other_machines_have_logs_of_their_own_and_the_drivers_comes_last(tmp_path: Path) -> None:
    append(tmp_path / SHARDS, line("ours"))
    for host in ("node-2", "node-1", "a/b c"):
        append(tmp_path / shards_of(host), line(host))
    assert keys(tmp_path) == ["a/b c", "node-1", "node-2", "ours"]
    assert len(list((tmp_path / SHARDS).parent.iterdir())) == 4, "no name of a host makes a folder"
    assert keys(tmp_path, 1) == ["ours"]


@pytest.mark.parametrize("field", ["stage", "key", "rows", "seconds", "settings"])
def test_a_record_has_all_that_is_read_of_it_in_the_type_it_has(tmp_path: Path, field: str) -> None:
    for broken in (
        {name: value for name, value in line("x").items() if name != field},
        line("x") | {field: None},
        line("x") | {field: []},
    ):
        append(tmp_path / SHARDS, broken)
    append(tmp_path / SHARDS, line("whole", made="more is welcome"))
    assert keys(tmp_path) == ["whole"]


def test_a_place_that_cannot_be_written_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "shards.jsonl").mkdir()
    with pytest.raises(OSError, match="directory"):
        append(tmp_path / SHARDS, line("x"))
    assert keys(tmp_path) == []
