"""Examples in, those to train on and those to evaluate on out: decided by content, so that it never moves."""

import hashlib
from collections.abc import Sequence

from kidpipe.own_data.rows import Row

FEWEST = 2
"""Held-out examples that a split has at least, where there are twice as many in all."""


def split_rows(rows: Sequence[Row], share: float) -> tuple[list[Row], list[Row]]:
    """(train, dev); `rows` have `db_id` and `query`.

    A (database, SQL) pair falls on one side with all its questions: a model is never judged on SQL that it was taught.
    Appended rows move none that were there, once more than FEWEST are held out by their share.
    """
    places = {key: _place(*key) for key in dict.fromkeys((row["db_id"], row["query"]) for row in rows)}
    held = {key for key, place in places.items() if place < share}
    if share and len(held) < FEWEST <= len(places) // 2:
        held = set(sorted(places, key=lambda key: places[key])[:FEWEST])
    dev = [row for row in rows if (row["db_id"], row["query"]) in held]
    return [row for row in rows if (row["db_id"], row["query"]) not in held], dev


def _place(db_id: str, sql: str) -> float:
    """A number from 0 to 1 that only the two texts decide."""
    digest = hashlib.sha256(f"{db_id}\n{' '.join(sql.split())}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
