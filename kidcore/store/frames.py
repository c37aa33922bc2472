"""A manifest and a stage in, the stage's rows as one polars frame out."""

from collections.abc import Sequence
from itertools import islice

import polars as pl

from kidcore.store.manifest import Manifest
from kidcore.store.store import Shard, Store


def read_frame(
    store: Store, manifest: Manifest, stage: str, columns: Sequence[str] | None = None, most_files: int | None = None
) -> pl.DataFrame:
    """The rows of a stage, of its first `most_files` shards; an empty frame where the manifest has no such stage.

    Raises DamagedShard for a shard that is gone or unreadable.
    """
    shards = [Shard.at(file) for file in islice(manifest.files(stage), most_files)]
    if not shards:
        return pl.DataFrame()
    wanted = list(columns) if columns else None
    return pl.concat([pl.DataFrame(store.read(shard, wanted)) for shard in shards])
