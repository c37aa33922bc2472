"""A log that was torn is read as far as it goes, and goes on with a line of its own."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kidcore.store.log import SHARDS, append, shard_records

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
