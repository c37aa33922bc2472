"""A manifest and a stage in, the stage's rows as one polars frame out."""

from collections.abc import Sequence
from itertools import islice

import polars as pl

from kidcore.store.manifest import Manifest
from kidcore.store.store import Store


def read_frame(
    store: Store, manifest: Manifest, stage: str, columns: Sequence[str] | None = None, most_files: int | None = None
) -> pl.DataFrame:
    """The rows of a stage, of its first `most_files` shards; an empty frame where the manifest has no such stage."""
    paths = [store.root / file for file in islice(manifest.files(stage), most_files)]
    if not paths:
        return pl.DataFrame()
    wanted = list(columns) if columns else None
    return pl.concat([pl.read_parquet(path, columns=wanted, glob=False) for path in paths])
