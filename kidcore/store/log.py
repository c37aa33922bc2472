"""Records of finished shards in, what can still be read of them out. Nothing is decided by a log, and none breaks anything."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kidcore.atomic import naming_the_disk

SHARDS = Path("log") / "shards.jsonl"
"""Below the store's root: a line for each shard ever made."""

_FIELDS: dict[str, tuple[type, ...]] = {
    "stage": (str,),
    "key": (str,),
    "rows": (int,),
    "seconds": (int, float),
    "settings": (str,),
}

_log = logging.getLogger(__name__)


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line of JSON, on a line of its own also where the last writer was stopped within one."""
    with naming_the_disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as log:
            # One write: lines of several writers stay apart.
            log.write((b"" if _ends_with_a_line(path) else b"\n") + json.dumps(record, sort_keys=True).encode() + b"\n")


def shard_records(root: Path, last: int | None = None) -> list[dict[str, Any]]:
    """What the logs of a store say of its shards, oldest first for each machine; the `last` lines only, where given.

    A record has stage, key, rows, seconds and settings, and may have more. What is torn, overwritten with zeros or foreign
    is left out, and said with -v.
    """
    found: list[dict[str, Any]] = []
    for path in [*sorted((root / SHARDS).parent.glob(f"{SHARDS.stem}-*{SHARDS.suffix}")), root / SHARDS]:
        found += _records(path, last)
    return found[-last:] if last else found


def shards_of(host: str) -> Path:
    """As SHARDS, for another machine than the driver's: no network file system keeps lines of two machines apart."""
    name = re.sub(r"[^\w.-]", "_", host)
    return SHARDS.with_name(f"{SHARDS.stem}-{name}{SHARDS.suffix}")


def _records(path: Path, last: int | None) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            _log.debug("%s: not read: %s", path, error)
        return []
    lines = [line for line in lines if line.strip()]
    found = [_record(line) for line in (lines[-last:] if last else lines)]
    if broken := found.count(None):
        _log.debug("%s: %d lines are no records of shards and are left out", path, broken)
    return [record for record in found if record is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # malformed JSON, or no UTF-8
        return None
    if not isinstance(record, dict):
        return None
    is_whole = all(isinstance(record.get(name), kinds) for name, kinds in _FIELDS.items())
    return record if is_whole else None


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as log:
        if not log.seek(0, 2):
            return True
        log.seek(-1, 2)
        return log.read(1) == b"\n"
