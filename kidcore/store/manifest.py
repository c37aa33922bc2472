"""A finished grid in, the manifest out: the one file that readers open. No times or hosts: equal builds, equal bytes."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.store.footers import FooterCounts
from kidcore.store.graph import Grid, Partition, Stage
from kidcore.store.store import Store

LATEST = "manifest.json"
HEAD = "head.json"
"""What `kidpipe status` says of the latest manifest, so that it need not read all of it."""
MANIFEST_VERSION = 1
"""Of the manifest and the shards it names; a reader refuses what is newer than itself."""

Document = Mapping[str, Any]
"""A JSON object."""


@dataclass(frozen=True)
class StageRecord:
    """How the shards of a stage were made."""

    version: int
    settings: Document
    """`section.field` to value; `teacher.weights` and the like are the identities of what was read beside them."""
    views: int
    """Shards for each part; 0 for a stage without views."""


@dataclass(frozen=True)
class PartRecord:
    """The shards of one part."""

    part: int
    rows: int
    content: Mapping[str, str]
    """Digests of what the part's stages read of the data set."""
    files: Mapping[str, tuple[str, ...]]
    """By stage, paths below the store's root, one for each view."""


@dataclass(frozen=True)
class TeacherRecord:
    """The teacher that filled and scored."""

    identity: str
    vocab_size: int


@dataclass(frozen=True)
class Facts:
    """What the trainer needs to know and could not see from the shards."""

    eos_id: int
    mask_id: int
    tokenizer: str
    """Digest: the name of its folder under tokenizers/."""
    max_tokens: int
    """Tokens of the longest sequence that ingest lets through."""
    views: int | None = None
    """None in what a method without views reads of a manifest."""
    teacher: TeacherRecord | None = None


@dataclass(frozen=True)
class Manifest:
    """What a build made, or the part of it that one training method reads; `digest` names it."""

    digest: str
    facts: Facts
    stages: Mapping[str, StageRecord]
    counts: Mapping[str, Mapping[str, Any]]
    """By stage: rows `in`, `out` and `set_aside` by reason, and the stage's own statistics."""
    parts: tuple[PartRecord, ...]
    schema_version: int = MANIFEST_VERSION

    @classmethod
    def of(
        cls,
        facts: Facts,
        stages: Mapping[str, StageRecord],
        counts: Mapping[str, Mapping[str, Any]],
        parts: tuple[PartRecord, ...],
        schema_version: int = MANIFEST_VERSION,
    ) -> "Manifest":
        """A manifest with the digest that follows from the rest."""
        return cls(fingerprint(_body(facts, stages, counts, parts, schema_version)), facts, stages, counts, parts, schema_version)

    def as_json(self) -> dict[str, Any]:
        """What is written."""
        return {"digest": self.digest, **_body(self.facts, self.stages, self.counts, self.parts, self.schema_version)}

    @classmethod
    def from_json(cls, document: Document) -> "Manifest":
        """What was written. Raises KeyError where something is missing."""
        teacher = document.get("teacher")
        facts = Facts(
            eos_id=document["eos_id"],
            mask_id=document["mask_id"],
            tokenizer=document["tokenizer"],
            max_tokens=document["max_tokens"],
            views=document.get("views"),
            teacher=TeacherRecord(teacher["identity"], teacher["vocab_size"]) if teacher else None,
        )
        stages = {name: StageRecord(x["version"], x["settings"], x["views"]) for name, x in document["stages"].items()}
        parts = tuple(
            PartRecord(x["part"], x["rows"], x["content"], {name: _files(x[name]) for name in stages}) for x in document["parts"]
        )
        return cls(document["digest"], facts, stages, document["counts"], parts, document["schema_version"])

    def files(self, *stages: str) -> Iterator[str]:
        """The shards of the stages (all where none is named), part after part."""
        for part in self.parts:
            for name in stages or part.files:
                yield from part.files.get(name, ())

    def digests(self, stages: Collection[str]) -> dict[str, list[list[str]]]:
        """By stage, part and view, the digest of what each shard holds."""
        return {
            name: [[file.split(".")[-2] for file in part.files.get(name, ())] for part in self.parts] for name in sorted(stages)
        }

    def only(self, stages: Collection[str]) -> "Manifest":
        """As if nothing but `stages` had been built."""
        kept = {name: record for name, record in self.stages.items() if name in stages}
        counts = {name: counted for name, counted in self.counts.items() if name in stages}
        parts = tuple(
            PartRecord(part.part, part.rows, part.content, {name: x for name, x in part.files.items() if name in stages})
            for part in self.parts
        )
        return Manifest.of(self.facts, kept, counts, parts, self.schema_version)


def _files(entry: str | list[str]) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry)


def _body(
    facts: Facts,
    stages: Mapping[str, StageRecord],
    counts: Mapping[str, Mapping[str, Any]],
    parts: tuple[PartRecord, ...],
    schema_version: int,
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "schema_version": schema_version,
        "eos_id": facts.eos_id,
        "mask_id": facts.mask_id,
        "tokenizer": facts.tokenizer,
        "max_tokens": facts.max_tokens,
        "stages": {name: {"version": x.version, "settings": dict(x.settings), "views": x.views} for name, x in stages.items()},
        "counts": {name: dict(counted) for name, counted in counts.items()},
        "parts": [_part_as_json(part, stages) for part in parts],
    }
    if facts.views is not None:
        body["views"] = facts.views
    if facts.teacher is not None:
        body["teacher"] = {"identity": facts.teacher.identity, "vocab_size": facts.teacher.vocab_size}
    return body


def _part_as_json(part: PartRecord, stages: Mapping[str, StageRecord]) -> dict[str, Any]:
    entry: dict[str, Any] = {"part": part.part, "rows": part.rows, "content": dict(part.content)}
    return entry | {name: list(files) if stages[name].views else files[0] for name, files in part.files.items()}


def make_manifest(grid: Grid, store: Store, facts: Facts) -> Manifest:
    """Describe every shard of the grid, all of them finished."""
    footers = FooterCounts(store)
    counts = {stage.name: _total(grid, stage, footers) for stage in grid.stages}
    footers.save()
    return Manifest.of(
        facts,
        {stage.name: StageRecord(stage.version, dict(stage.resolved), stage.views) for stage in grid.stages},
        counts,
        tuple(_part(grid, part) for part in grid.parts),
    )


def _part(grid: Grid, part: Partition) -> PartRecord:
    files: dict[str, tuple[str, ...]] = {}
    for stage in grid.stages:
        shards = [grid.look(stage, part, view).shard for view in stage.each_view()]
        assert None not in shards, "a manifest of an unfinished grid"
        files[stage.name] = tuple(shard.file for shard in shards if shard is not None)
    return PartRecord(part.index, part.rows, dict(part.content), files)


def _total(grid: Grid, stage: Stage, footers: FooterCounts) -> dict[str, Any]:
    """The counts of all shards of a stage, summed."""
    total: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for cell in grid.cells(stage):
        assert cell.shard is not None
        counts = footers.of(cell.shard)
        reasons.update(counts.pop("set_aside", {}))
        total.update(counts)
    return dict(total) | ({"set_aside": dict(reasons)} if reasons else {})


def write_manifest(store: Store, manifest: Manifest, *, is_latest: bool = True) -> None:
    """Keep `manifest` under its digest, for runs that are trained on it, and make it the latest."""
    document = manifest.as_json()
    store.write_json(f"manifests/{manifest.digest}.json", document)
    if not is_latest:
        return
    if store.read_json(LATEST) != document:
        store.write_json(LATEST, document)
    shards = {name: len(manifest.parts) * max(stage.views, 1) for name, stage in manifest.stages.items()}
    store.write_json(HEAD, {"schema_version": manifest.schema_version, "digest": manifest.digest, "shards": shards})


def read_head(store: Store) -> dict[str, Any]:
    """The latest manifest's digest and its number of shards by stage; empty before the first build. Raises as read_manifest."""
    head = store.read_json(HEAD)
    if head is None:
        read_manifest(store)  # a folder of a newer kidpipe may have no head that we know
        return {"digest": None, "shards": {}}
    head = _readable(head, store, HEAD)
    if "digest" not in head or not isinstance(head.get("shards"), dict):
        raise _no_manifest(store, HEAD, "digest or shards are missing")
    return head


def read_manifest(store: Store) -> Manifest | None:
    """The latest manifest, or None before the first build. Raises KidpipeError for one of a newer kidpipe."""
    return _read(store, LATEST)


def kept_manifest(store: Store, digest: str) -> Manifest | None:
    """The manifest of this digest, or None where it is not kept. Raises as read_manifest."""
    return _read(store, f"manifests/{digest}.json")


def find_manifest(store: Store, digest: str) -> Manifest:
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
    manifest = kept_manifest(store, found[0])
    assert manifest is not None
    return manifest


def _read(store: Store, name: str) -> Manifest | None:
    found = store.read_json(name)
    if found is None:
        return None
    document = _readable(found, store, name)
    try:
        return Manifest.from_json(document)
    except KeyError as error:
        raise _no_manifest(store, name, f"{error} is missing") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise _no_manifest(store, name, str(error)) from None


def _readable(document: Any, store: Store, name: str) -> dict[str, Any]:
    """The document, where it is an object and of a version that we know."""
    version = document.get("schema_version", 0) if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(version, int):
        raise _no_manifest(store, name, "it is no JSON object with a schema_version")
    if version > MANIFEST_VERSION:
        raise KidpipeError(
            f"the manifest has schema version {version}, this kidpipe reads up to {MANIFEST_VERSION}",
            where=str(store.root / LATEST),
            fix="upgrade kidpipe, or set store.path to another folder",
        )
    return document


def _no_manifest(store: Store, name: str, why: str) -> KidpipeError:
    return KidpipeError(f"not a manifest: {why}", where=str(store.root / name), fix="remove the file and build again")


def rates(manifest: Manifest) -> dict[str, float]:
    """The figures a build is judged by, from its counts; those whose stage did not run are absent.

    `rewrite_rate` is the share of masked positions whose token changed; `parse`, `execute` and `same_result` are shares
    of imperfect queries; `accepted` is the share of a student's proposals that the teacher kept; `stored_ids` is the mean number
    of top-K ids a scored position.
    """
    counts = manifest.counts
    figures: dict[str, float] = {}
    for stage, names in (("rewrite", ("changed_rows", "parse")), ("outcome", ("execute", "same_result"))):
        if counted := counts.get(stage):
            figures |= {name: counted[name] / max(counted["out"], 1) for name in names}
    if rewrite := counts.get("rewrite"):
        figures["rewrite_rate"] = rewrite["rewritten"] / max(rewrite["masked"], 1)
    if verified := counts.get("verify"):
        figures["accepted"] = verified["accepted"] / max(verified["proposed"], 1)
    if score := counts.get("score"):
        figures["stored_ids"] = score["stored_ids"] / max(score["positions"], 1)
    return figures
