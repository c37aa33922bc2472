"""A data set in, the parts that flow through the graph out."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise

from kidcore.config.digests import FileDigests
from kidcore.config.settings import fingerprint
from kidcore.sql.datasets import DataSet, Example
from kidcore.store.graph import Partition


def split_parts(dataset: DataSet, shard_rows: int, digests: FileDigests) -> list[Partition]:
    """Runs of about `shard_rows` examples.

    `content["source"]` hashes the examples, `content["databases"]` the database files they are about: a changed database
    reruns what reads databases, and nothing else unless the results differ.
    """
    parts = []
    databases = database_digests(dataset, digests)
    ends = [0, *cuts([example.example_id for example in dataset.examples], shard_rows), len(dataset.examples)]
    for index, (start, end) in enumerate(pairwise(ends)):
        examples = dataset.examples[start:end]
        content = {"source": _source_digest(examples), "databases": fingerprint({e.db_id: databases[e.db_id] for e in examples})}
        parts.append(Partition(index, len(examples), content))
    digests.save()
    return parts


def database_digests(dataset: DataSet, digests: FileDigests) -> dict[str, str]:
    """By db_id, what changes when its database does."""
    return {db_id: dataset.database(db_id).digest(digests) for db_id in sorted({e.db_id for e in dataset.examples})}


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


def _source_digest(examples: Sequence[Example]) -> str:
    return fingerprint([[e.example_id, e.db_id, e.question, e.evidence, e.gold_sql] for e in examples])
