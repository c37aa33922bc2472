"""A manifest and a stage in, the stage's rows as one polars frame out."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from kidcore.store.store import Store


def stage_files(manifest: Mapping[str, Any], stage: str, view: int | None = None) -> list[str]:
    """The files of a stage below the store's root, part by part; of one view only where `view` is given."""
    entries = [part[stage] for part in manifest["parts"] if stage in part]
    chosen = [entry if isinstance(entry, str) or view is None else entry[view] for entry in entries]
    return [file for entry in chosen for file in ([entry] if isinstance(entry, str) else entry)]


def read_frame(
    store: Store, manifest: Mapping[str, Any], stage: str, columns: Sequence[str] | None = None, most_files: int | None = None
) -> pl.DataFrame:
    """The rows of a stage, of its first `most_files` shards; an empty frame where the manifest has no such stage."""
    paths = [store.root / file for file in stage_files(manifest, stage)[:most_files]]
    if not paths:
        return pl.DataFrame()
    return pl.concat([pl.read_parquet(path, columns=list(columns) if columns else None) for path in paths])
