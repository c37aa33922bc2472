"""Shards in, the counts in their footers out, remembered so that a build with nothing to do opens none of 50,000 files."""

import json
from collections import Counter
from typing import Any

from kidcore.store.store import Shard, Store

COUNTS = "counts.json"
"""By shard file, its size and its counts; a shard of another size was damaged and is opened."""


class FooterCounts:
    """The counts of shards; `save` keeps those that were asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known = _read(store)
        self._asked: dict[str, tuple[int, str]] = {}

    def of(self, shard: Shard) -> dict[str, Any]:
        """The counts that the stage stored with the shard. Raises DamagedShard."""
        size = self._store.size(shard)
        known = self._known.get(shard.file)
        text = known[1] if known and known[0] == size else json.dumps(self._store.counts(shard))
        self._asked[shard.file] = (size, text)
        counts: dict[str, Any] = json.loads(text)
        return counts

    def save(self) -> None:
        """Keep what was asked for, and what was known of stages that were not."""
        stages = {file.partition("/")[0] for file in self._asked}
        others = {file: entry for file, entry in self._known.items() if file.partition("/")[0] not in stages}
        if others | self._asked != self._known:
            self._store.write_json(COUNTS, others | self._asked)


def known_bytes(store: Store) -> dict[str, int]:
    """Bytes by stage of the shards that manifests listed, from memory: asking 50,000 files for their sizes would be felt."""
    found: Counter[str] = Counter()
    for file, (size, _counts) in _read(store).items():
        found[file.partition("/")[0]] += size
    return dict(found)


def _read(store: Store) -> dict[str, tuple[int, str]]:
    """A memory that cannot be read is an empty one."""
    try:
        document = json.loads((store.root / COUNTS).read_bytes())
        return {str(file): (int(size), str(text)) for file, (size, text) in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
