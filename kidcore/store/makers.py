"""The log of shards in; what made each of them (engine, version, device, precision, kidpipe) and whether a build mixes them, out.

None of it is in a shard, its name or the manifest: those are the same whoever makes them. It is in the log, and the build keeps
a summary by stage beside the manifest, because `kidpipe status` has no time to read the log of 50,000 shards.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kidcore.models.backends.facts import EngineFacts
from kidcore.store.kept_knowledge import read_memory
from kidcore.store.log import shard_records
from kidcore.store.store import Shard, Store
from kidcore.version import kidpipe_version

SUMMARY = "made.json"
_SAME_MODEL = ("gold_score", "score")
"""Stages whose figures are subtracted from each other in training, so one engine should have made both."""


@dataclass(frozen=True)
class Maker:
    """What made a shard; `engine` is None where no model was asked."""

    kidpipe: str
    engine: EngineFacts | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, record: Any) -> "Maker | None":
        """What `as_json` gave, or None for anything else: logs are not to be trusted."""
        try:
            return cls(str(record["kidpipe"]), EngineFacts(**record["engine"]) if record["engine"] else None)
        except (KeyError, TypeError):
            return None

    def __str__(self) -> str:
        return f"{self.engine or 'no model'}, kidpipe {self.kidpipe}"


def this_maker(engine: EngineFacts | None) -> Maker:
    """The running kidpipe with the engine that it asked."""
    return Maker(kidpipe_version(), engine)


def makers_of(store: Store, keys: Collection[str]) -> dict[str, Maker]:
    """What made the shards of these keys, as the log says last; those that it does not tell of are left out.

    What was cut from another shard has its numbers from the engine of that one.
    """
    found: dict[str, Maker] = {}
    origin: dict[str, str] = {}
    for record in shard_records(store.root):
        maker = Maker.parse(record.get("made"))
        if maker is not None:
            found[record["key"]] = maker
            origin[record["key"]] = str(record.get("cut_from", ""))
    return {key: _first(key, found, origin) for key in keys if key in found}


def _first(key: str, found: Mapping[str, Maker], origin: Mapping[str, str]) -> Maker:
    """The maker of the shard that this one, or what it was cut from, was cut from first."""
    seen = {key}
    while (before := origin[key]) in found and before not in seen:
        seen.add(before)
        key = before
    return found[key]


def write_summary(store: Store, digest: str, shards: Mapping[str, Sequence[Shard]]) -> list[str]:
    """Keep how many shards of each stage of the manifest `digest` were made by what; returns what `mixtures` says."""
    known = makers_of(store, {shard.key for some in shards.values() for shard in some})
    stages = {}
    for stage, some in shards.items():
        counted = Counter(known[shard.key] for shard in some if shard.key in known)
        stages[stage] = [{"shards": number, **maker.as_json()} for maker, number in counted.most_common()]
    store.write_json(SUMMARY, {"manifest": digest, "stages": stages})
    return mixtures(stages)


def read_summary(store: Store, digest: str | None) -> dict[str, list[dict[str, Any]]]:
    """What `write_summary` kept, by stage; empty where it is that of another manifest, or damaged."""
    summary = read_memory(store, SUMMARY)
    if not isinstance(summary, Mapping) or summary.get("manifest") != digest or not isinstance(summary.get("stages"), dict):
        return {}
    stages: dict[str, list[dict[str, Any]]] = summary["stages"]
    return stages if all(map(_are_counts, stages.values())) else {}


def _are_counts(entries: Any) -> bool:
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("shards"), int) and Maker.parse(entry) is not None for entry in entries
    )


def mixtures(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """One sentence for each group of stages whose shards come from different engines: their numbers differ in the last digits."""
    groups = [(name,) for name in stages if name not in _SAME_MODEL] + [_SAME_MODEL]
    found = []
    for group in groups:
        counted: Counter[EngineFacts] = Counter()
        for entry in (entry for name in group for entry in stages.get(name, ())):
            maker = Maker.parse(entry)
            if maker is not None and maker.engine is not None:
                counted[maker.engine] += entry["shards"]
        if len(counted) > 1:
            by = ", ".join(f"{number} by {engine}" for engine, number in counted.most_common())
            found.append(f"{' and '.join(name for name in group if name in stages)} mix engines: shards {by}")
    return found
