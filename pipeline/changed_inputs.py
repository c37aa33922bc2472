"""The data set as it is and the last build in; the names of the questions and databases that changed since, out."""

from collections.abc import Iterable

from kidcore.errors import KidpipeError
from kidcore.store.kept_knowledge import read_memory
from kidcore.store.manifest import Manifest
from kidcore.store.store import Shard, Store
from pipeline.context import Context
from pipeline.outline import database_digests

_DATABASES = "databases.json"
"""Beside the manifest: which digest each database had. A part's own digest cannot say which of its databases changed."""
_SHOWN = 3
_COLUMNS = ["example_id", "db_id", "question", "gold_sql"]


def remember_databases(context: Context, store: Store, digest: str) -> None:
    """Keep the databases' digests for later plans, as those of the manifest `digest`."""
    store.write_json(_DATABASES, {"manifest": digest, "digests": _databases_now(context, store)})


def changed_inputs(context: Context, store: Store, manifest: Manifest | None, name: str) -> str | None:
    """Which `databases` or questions (`source`) are others than in the last build; None where that is not known."""
    if manifest is None:
        return None
    return _changed_databases(context, store, manifest) if name == "databases" else _changed_questions(context, store, manifest)


def _databases_now(context: Context, store: Store) -> dict[str, str]:
    return database_digests(context.dataset, context.outline, store.digests)


def _changed_databases(context: Context, store: Store, manifest: Manifest) -> str | None:
    kept = read_memory(store, _DATABASES)
    if not isinstance(kept, dict) or kept.get("manifest") != manifest.digest or not isinstance(kept.get("digests"), dict):
        return None
    before = kept["digests"]
    return _named(db_id for db_id, digest in _databases_now(context, store).items() if before.get(db_id) != digest)


def _changed_questions(context: Context, store: Store, manifest: Manifest) -> str | None:
    """By the shards of parts that are no more: they hold what was asked then."""
    now = {part.content["source"] for part in context.parts}
    then = {part.content["source"] for part in manifest.parts}
    try:
        before = {
            row["example_id"]: (row["db_id"], row["question"], row["gold_sql"])
            for part in manifest.parts
            if part.content["source"] not in now
            for row in store.read(Shard.at(part.files["ingest"][0]), _COLUMNS).to_pylist()
        }
    except KidpipeError:
        return None
    examples = [e for part in context.parts if part.content["source"] not in then for e in context.examples(part)]
    here = {e.example_id for e in examples}
    fresh = [e.example_id for e in examples if before.get(e.example_id) != (e.db_id, e.question, e.gold_sql)]
    gone = [example_id for example_id in before if example_id not in here]
    said = [_named(fresh), f"gone: {_named(gone)}" if gone else ""]
    return "; ".join(text for text in said if text)


def _named(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN:,} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
