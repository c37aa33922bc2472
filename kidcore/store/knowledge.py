"""A manifest in, what its teacher thinks of gold out: read once a shard, and kept beside the shards by what they hold.

Gold scores hold it anyway; neither shards nor the manifest change. The file may go at any time: it is made again.
"""

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from kidcore.method.knowledge import GoldKnowledge
from kidcore.store.arrow import lists
from kidcore.store.kept_knowledge import read_knowledge, read_memory, write_memory
from kidcore.store.manifest import Manifest
from kidcore.store.store import Shard, Store

_SHARDS = "knowledge_shards.json"
"""Sums by the digest of a gold_score shard."""
_STAGE = "gold_score"


def teacher_knowledge(store: Store, manifest: Manifest) -> GoldKnowledge | None:
    """What the teacher of a manifest thinks of gold; None without gold scores. Opens only shards that were never looked at.

    Raises:
        DamagedShard: one of them can't be read.
    """
    shards = [Shard.at(file) for file in manifest.files(_STAGE)]
    if not shards:
        return None
    if (kept := read_knowledge(store, manifest.digest)) is not None:
        return kept
    known = _known(store)
    missing = [shard for shard in shards if shard.digest not in known]
    for shard in missing:
        known[shard.digest] = _look_at(store, shard)
    total = reduce(add, (known[shard.digest] for shard in shards))
    if missing:
        there = {shard.digest for shard in store.scan(_STAGE).values()}
        write_memory(store, _SHARDS, {digest: sums.sums() for digest, sums in known.items() if digest in there})
    return total


def _known(store: Store) -> dict[str, GoldKnowledge]:
    kept = read_memory(store, _SHARDS)
    if not isinstance(kept, Mapping):
        return {}
    return {digest: GoldKnowledge.of(sums) for digest, sums in kept.items() if _is_sums(sums)}


def _is_sums(kept: Any) -> bool:
    return isinstance(kept, list) and len(kept) == 5 and all(isinstance(value, (int, float)) for value in kept)


def _look_at(store: Store, shard: Shard) -> GoldKnowledge:
    table = store.read(shard, ["gold_ids", "topk_count", "topk_ids", "actual_logprob"])
    gold, ids, counts = lists(table, "gold_ids"), lists(table, "topk_ids"), lists(table, "topk_count")
    firsts = []
    for row in range(table.num_rows):
        count = counts[row][:-1].astype(np.int64)
        start = np.cumsum(count) - count
        # A position may have no id: where the likeliest ones are padding rows, which no token has.
        chosen = ids[row][np.minimum(start, max(len(ids[row]) - 1, 0))] if len(ids[row]) else np.full(len(count), -1)
        firsts.append(np.append((chosen == gold[row]) & (count > 0), False))
    return GoldKnowledge.of_answers(lists(table, "actual_logprob"), firsts)
