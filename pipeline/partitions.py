"""A data set in, the parts that flow through the graph out."""

from collections.abc import Sequence

from kidcore.config.digests import FileDigests
from kidcore.config.settings import fingerprint
from kidcore.sql.datasets import DataSet, Example
from kidcore.store.graph import Partition


def split_parts(dataset: DataSet, shard_rows: int, digests: FileDigests) -> list[Partition]:
    """Runs of `shard_rows` examples, so that appended examples make new parts and leave full ones as they are.

    `content["source"]` hashes the examples, `content["databases"]` the database files they are about: a changed database
    reruns what reads databases, and nothing else unless the results differ.
    """
    parts = []
    for index, start in enumerate(range(0, len(dataset.examples), shard_rows)):
        examples = dataset.examples[start : start + shard_rows]
        content = {"source": _source_digest(examples), "databases": _database_digest(dataset, examples, digests)}
        parts.append(Partition(index, len(examples), content))
    digests.save()
    return parts


def _source_digest(examples: Sequence[Example]) -> str:
    return fingerprint([[e.example_id, e.db_id, e.question, e.evidence, e.gold_sql] for e in examples])


def _database_digest(dataset: DataSet, examples: Sequence[Example], digests: FileDigests) -> str:
    paths = {db_id: dataset.database(db_id) for db_id in {e.db_id for e in examples}}
    return fingerprint({db_id: digests.digest(path) if path.is_file() else "missing" for db_id, path in paths.items()})
