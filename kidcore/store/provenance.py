"""What a shard is made from in; its key, and what the shard's own footer says of its making, out.

Only what the key is made of, and defaults: equal makings give equal bytes, whoever makes them, when and where. A part's number, a
model's name, the engine and the time are not of that kind: the manifest, the store's models.json and its log of shards tell them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kidcore.config.settings import fingerprint

FORMAT = 1
"""Of what `as_json` gives."""


@dataclass(frozen=True)
class Provenance:
    """How one shard is made."""

    stage: str
    version: int
    view: int | None
    """None for a stage without views."""
    settings: Mapping[str, Any]
    """All identity settings of the stage as `section.field`; `teacher.weights` and the like are fingerprints of models."""
    in_key: Sequence[str]
    """Those that go into the key: settings away from their default, and what was read beside them."""
    inputs: Mapping[str, str]
    """By stage, the digest of the shard that is read, in the stage's order."""
    reads: Mapping[str, str]
    """By name (`source`, `databases`), the digest of what is read of the data set, in the stage's order."""
    cut_from: str = ""
    """The file of the shard with more ids a position that it was cut from, where no model was asked."""

    @property
    def key(self) -> str:
        """The shard's key: the same as the grid's, from what the footer says alone."""
        start = key_start(self.stage, self.version, {name: self.settings[name] for name in self.in_key})
        return shard_key(start, self.view, [*self.inputs.values(), *self.reads.values()])

    def as_json(self) -> dict[str, Any]:
        """What is written."""
        return {
            "format": FORMAT,
            "stage": self.stage,
            "version": self.version,
            "view": self.view,
            "settings": dict(self.settings),
            "in_key": sorted(self.in_key),
            "inputs": dict(self.inputs),
            "reads": dict(self.reads),
            **({"cut_from": self.cut_from} if self.cut_from else {}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Provenance":
        """What was written. Raises KeyError where something is missing."""
        names = ("stage", "version", "view", "settings", "in_key", "inputs", "reads")
        return cls(**{name: document[name] for name in names}, cut_from=document.get("cut_from", ""))


def key_start(stage: str, version: int, identity: Mapping[str, Any]) -> str:
    """What the keys of a stage's shards have in common."""
    return fingerprint([stage, version, dict(identity)])


def shard_key(start: str, view: int | None, digests: Sequence[str]) -> str:
    """32 hex digits from what `key_start` gave, the view, and the digests of what the shard is made from."""
    text = "|".join([start, "" if view is None else str(view), *digests])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
