"""Seed, epoch and ids in; the order in which examples are seen, and which are held out, out.

Everything is sorted by hashes, so it depends on neither a library's random generator nor the number of processes.
ORDER_VERSION is part of a checkpoint: a run is never resumed in another order than it began with.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

ORDER_VERSION = 1


def hashed(*values: object) -> int:
    """A 64-bit number that looks random and depends only on the texts of `values`."""
    text = "\0".join(str(value) for value in values)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def is_drawn(share: float, *values: object) -> bool:
    """Whether a thing is among a share of its like, decided by the texts of `values`."""
    return hashed(*values) < share * 2.0**64


def are_held_out(example_ids: Sequence[str], share: float, seed: int) -> list[bool]:
    """Which examples are kept for evaluation: a share of them, the same in every epoch and however shards are cut.

    As `is_drawn` draws: of a million, what does not change between them is done once.
    """
    prefix, limit = f"holdout\0{seed}\0".encode(), share * 2.0**64
    digests = (hashlib.blake2b(prefix + example_id.encode(), digest_size=8).digest() for example_id in example_ids)
    return [int.from_bytes(digest, "big") < limit for digest in digests]


def part_order(parts: Sequence[int], seed: int, epoch: int) -> list[int]:
    """The parts, shuffled for one epoch."""
    return sorted(parts, key=lambda part: (hashed("part", seed, epoch, part), part))


def group_order(ids: Sequence[tuple[str, str]], group_size: int, seed: int, epoch: int) -> list[str]:
    """Shuffle (example id, database id) pairs so that `group_size` questions on one database stay together.

    Questions of a database are shuffled and cut into groups, and the groups are shuffled.
    """
    by_database: dict[str, list[str]] = defaultdict(list)
    for example_id, db_id in ids:
        by_database[db_id].append(example_id)
    groups = []
    for members in by_database.values():
        members.sort(key=lambda example_id: (hashed("example", seed, epoch, example_id), example_id))
        groups += [members[start : start + group_size] for start in range(0, len(members), group_size)]
    groups.sort(key=lambda group: (hashed("group", seed, epoch, group[0]), group[0]))
    return [example_id for group in groups for example_id in group]
