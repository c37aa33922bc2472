"""The ids of examples in, where they are cut into parts out."""

import hashlib
from collections.abc import Sequence


def cuts(example_ids: Sequence[str], shard_rows: int) -> list[int]:
    """Where new parts begin: at each example whose hash is the least of the `shard_rows` around it.

    So a cut depends on its neighbourhood alone: an example that comes or goes moves cuts within half of `shard_rows` of
    it and nowhere else, which is three parts at the most. A part has at least half of `shard_rows` examples, `shard_rows`
    in the mean, twice as many at times (1 in 40) and hardly ever (1 in 5,000) three times; cuts at every `shard_rows`-th
    example would be even, and would all move.
    """
    before = shard_rows // 2
    hashes = [hashlib.blake2b(example_id.encode(), digest_size=16).digest() for example_id in example_ids]
    found, least = [], -1
    for start in range(len(hashes) - shard_rows + 1):
        window = range(start, start + shard_rows)
        if least < start:
            least = min(window, key=hashes.__getitem__)
        elif hashes[window[-1]] < hashes[least]:
            least = window[-1]
        if least == start + before and least > 0:
            found.append(least)
    return found
