"""A run's identity in, the folder that holds this run, or one for a new run, out; runs of earlier versions are known again."""

import re
from typing import Any

from pydantic import ValidationError

from kidcore.config.settings import fingerprint
from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.method.methods import settings_used
from kidcore.store.manifest import kept_manifest
from kidcore.store.store import Store
from kidpipe.commands.restricted import content_digest
from train.identity import RUN_VERSION

_OWN_NAME = re.compile(r".+-[0-9a-f]{8}")
"""What a run is called that was given no name."""


def run_name(method: str, identity: dict[str, Any]) -> str:
    """What a run is called unless it is given a name: the same for the same run."""
    return f"{method}-{fingerprint(identity, 8)}"


def find_run(store: Store, method: str, identity: dict[str, Any]) -> str:
    """The name of the folder that holds this run though nobody named it, else of a new one."""
    own = run_name(method, identity)
    if (store.root / "runs" / own).exists():
        return own
    for path in sorted((store.root / "runs").glob(f"{method}-*/run.json")):
        if _OWN_NAME.fullmatch(path.parent.name) and _identity_now(store, path.parent.name) == identity:
            return path.parent.name
    return own


def adopt_run(store: Store, name: str, identity: dict[str, Any]) -> None:
    """Write the identity of a run that an earlier version began in today's form, where it is this run."""
    if (store.root / "runs" / name / "run.json").is_file() and _identity_now(store, name) == identity:
        store.write_json(f"runs/{name}/run.json", identity)


def is_another_run(store: Store, name: str, identity: dict[str, Any]) -> bool:
    """Whether the folder holds a run that is not this one: the trainer refuses it and says what differs."""
    return (store.root / "runs" / name / "run.json").is_file() and _identity_now(store, name) != identity


def _identity_now(store: Store, name: str) -> dict[str, Any] | None:
    """The identity of a run in today's form; None where it cannot be known."""
    try:
        before: dict[str, Any] = store.read_json(f"runs/{name}/run.json")
        if before.get("schema_version") != 2:
            return before
        # Version 2 named the manifest, which is kept for the run: what the run reads of it can be looked up.
        manifest = kept_manifest(store, before["manifest"])
        left_out = {name: TrainSettings.left_out(name) for name in TrainSettings.model_fields}
        settings = TrainSettings.model_validate(left_out | before["settings"])
    except (KidpipeError, KeyError, AttributeError, ValidationError):
        return None
    if manifest is None:
        return None
    now = {name: value for name, value in before.items() if name != "manifest"}
    changed = {"shards": content_digest(manifest, settings), "settings": settings_used(settings)}
    return now | changed | {"schema_version": RUN_VERSION}
