"""What the teacher of the latest manifest thinks of gold, as `kidpipe status` reads it: without shards, without Arrow."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from kidcore.errors import KidpipeError
from kidcore.method.knowledge import GoldKnowledge
from kidcore.store.manifest import Manifest
from kidcore.store.store import Store

SUMMARY = "knowledge.json"
"""May go at any time: the next build writes it again."""


def keep_knowledge(store: Store, manifest: Manifest, knowledge: GoldKnowledge | None) -> None:
    """Make it what `read_knowledge` finds for this manifest, until that of another one is kept."""
    if knowledge is not None and read_knowledge(store, manifest.digest) is None:
        store.write_json(SUMMARY, {"manifest": manifest.digest, "knowledge": knowledge.as_json()})


def read_memory(store: Store, name: str) -> Any:
    """What was kept under `name`; None where there is nothing, or nothing that can be read: it can be had again."""
    try:
        return store.read_json(name)
    except KidpipeError:
        return None


def write_memory(store: Store, name: str, value: Any) -> None:
    """Keep what can be had again, for who reads a store; one that can only be read is read all the same."""
    with suppress(KidpipeError, OSError):
        store.write_json(name, value)


def read_knowledge(store: Store, digest: str | None) -> GoldKnowledge | None:
    """What was kept of the manifest `digest`; None where it is that of another."""
    kept = read_memory(store, SUMMARY)
    if not isinstance(kept, Mapping) or kept.get("manifest") != digest:
        return None
    return GoldKnowledge.from_json(kept.get("knowledge"))
