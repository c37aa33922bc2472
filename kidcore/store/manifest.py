"""A finished grid in, the manifest out: the one file that readers open. No times or hosts: equal builds, equal bytes."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.store.graph import Grid, Partition, Stage
from kidcore.store.store import Store

STAGES = ("ingest", "gold_score", "mask", "predict", "rewrite", "outcome", "score", "generate")
"""Every stage, in the order they run. `generate` needs ingest only, and runs only when it is asked for."""

LATEST = "manifest.json"
HEAD = "head.json"
"""What `kidpipe status` says of the latest manifest, so that it need not read all of it."""
MANIFEST_VERSION = 1
"""Of the manifest and the shards it names; a reader refuses what is newer than itself."""


def make_manifest(grid: Grid, store: Store, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Describe every shard of the grid, all of them finished.

    Args:
        facts: what the trainer needs beside the shards (end-of-sequence id, tokenizer, views, teacher).
    """
    body = {
        "schema_version": MANIFEST_VERSION,
        **facts,
        "stages": {
            stage.name: {"version": stage.version, "settings": dict(stage.resolved), "views": stage.views}
            for stage in grid.stages
        },
        "counts": {stage.name: _total(grid, stage, store) for stage in grid.stages},
        "parts": [_part(grid, part) for part in grid.parts],
    }
    return {"digest": fingerprint(body), **body}


def _part(grid: Grid, part: Partition) -> dict[str, Any]:
    entry: dict[str, Any] = {"part": part.index, "rows": part.rows, "content": dict(part.content)}
    for stage in grid.stages:
        files = []
        for view in stage.each_view():
            shard = grid.look(stage, part, view).shard
            assert shard is not None, "a manifest of an unfinished grid"
            files.append(shard.file)
        entry[stage.name] = files if stage.views else files[0]
    return entry


def _total(grid: Grid, stage: Stage, store: Store) -> dict[str, Any]:
    """The counts of all shards of a stage, summed."""
    total: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for cell in grid.cells(stage):
        assert cell.shard is not None
        counts = store.counts(cell.shard)
        reasons.update(counts.pop("set_aside", {}))
        total.update(counts)
    return dict(total) | ({"set_aside": dict(reasons)} if reasons else {})


def write_manifest(store: Store, manifest: Mapping[str, Any], *, is_latest: bool = True) -> None:
    """Keep `manifest` under its digest, for runs that are trained on it, and make it the latest."""
    store.write_json(f"manifests/{manifest['digest']}.json", manifest)
    if not is_latest:
        return
    if store.read_json(LATEST) != manifest:
        store.write_json(LATEST, manifest)
    parts = len(manifest["parts"])
    shards = {name: parts * max(stage["views"], 1) for name, stage in manifest["stages"].items()}
    store.write_json(HEAD, {"schema_version": manifest["schema_version"], "digest": manifest["digest"], "shards": shards})


def read_head(store: Store) -> dict[str, Any]:
    """The latest manifest's digest and its number of shards by stage; empty before the first build. Raises as read_manifest."""
    head: dict[str, Any] | None = store.read_json(HEAD)
    if head is None:
        read_manifest(store)  # a folder of a newer kidpipe may have no head that we know
        return {"digest": None, "shards": {}}
    _require_readable(head, store)
    return head


def read_manifest(store: Store) -> dict[str, Any] | None:
    """The latest manifest, or None before the first build. Raises KidpipeError for one of a newer kidpipe."""
    manifest: dict[str, Any] | None = store.read_json(LATEST)
    if manifest is not None:
        _require_readable(manifest, store)
    return manifest


def find_manifest(store: Store, digest: str) -> dict[str, Any]:
    """The manifest whose digest begins with `digest`. Raises KidpipeError where none or several do."""
    names = sorted(path.stem for path in (store.root / "manifests").glob("*.json"))
    found = [name for name in names if name.startswith(digest)] if digest else []
    if len(found) != 1:
        known = ", ".join(found or names) or "none"
        raise KidpipeError(
            f"{len(found) or 'no'} manifests begin with {digest}",
            where=str(store.root / "manifests"),
            fix=f"kidpipe build-imperfect prints the digest of what it built; there: {known}",
        )
    manifest: dict[str, Any] = store.read_json(f"manifests/{found[0]}.json")
    _require_readable(manifest, store)
    return manifest


def _require_readable(document: Mapping[str, Any], store: Store) -> None:
    version = document.get("schema_version", 0)
    if version > MANIFEST_VERSION:
        raise KidpipeError(
            f"the manifest has schema version {version}, this kidpipe reads up to {MANIFEST_VERSION}",
            where=str(store.root / LATEST),
            fix="upgrade kidpipe, or set store.path to another folder",
        )


def rates(manifest: Mapping[str, Any]) -> dict[str, float]:
    """The figures a build is judged by, from its counts; those whose stage did not run are absent.

    `rewrite_rate` is the share of masked positions whose token changed; `parse`, `execute` and `same_result` are shares
    of imperfect queries; `stored_ids` is the mean number of top-K ids a scored position.
    """
    counts = manifest["counts"]
    figures: dict[str, float] = {}
    for stage, names in (("rewrite", ("changed_rows", "parse")), ("outcome", ("execute", "same_result"))):
        if counted := counts.get(stage):
            figures |= {name: counted[name] / max(counted["out"], 1) for name in names}
    if rewrite := counts.get("rewrite"):
        figures["rewrite_rate"] = rewrite["rewritten"] / max(rewrite["masked"], 1)
    if score := counts.get("score"):
        figures["stored_ids"] = score["stored_ids"] / max(score["positions"], 1)
    return figures
