"""What a run is made of in, `run.json` out: a folder of a run is continued by the same run only."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kidcore.atomic import write_json
from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.method.methods import settings_used
from train.data.sampler import ORDER_VERSION

RUN_VERSION = 3
"""3: a run is tied to what the shards it opens hold; before, to the whole manifest."""


def run_identity(
    settings: TrainSettings, content_digest: str, student_identity: str, online: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Everything that decides the losses of a run, apart from the machine it runs on.

    Args:
        content_digest: of what the run reads of a build.
        online: the teacher that is asked during training, and the settings of asking it.
    """
    identity: dict[str, Any] = {
        "schema_version": RUN_VERSION,
        "shards": content_digest,
        "student": student_identity,
        "order_version": ORDER_VERSION,
        "settings": settings_used(settings),
    }
    return identity | ({"online": dict(online)} if online else {})


def claim_folder(out: Path, identity: dict[str, Any]) -> None:
    """Write run.json, or refuse when `out` belongs to another run, naming each difference."""
    path = out / "run.json"
    if not path.exists():
        write_json(path, identity)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise KidpipeError(f"not a run's identity: {error}", where=str(path), fix=f"rm -r {out} and train again") from error
    differences = _differences(before, identity)
    if differences:
        raise KidpipeError(
            f"this folder holds another run: {'; '.join(differences)}",
            where=str(out),
            fix=f"train into another folder, put the settings back, or discard that run: rm -r {out}",
        )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`train.learning_rate 0.0002 -> 0.001` for each thing that changed; a setting left out has its default."""
    found = []
    old, new = before.get("settings", {}), now["settings"]
    for name in sorted(old.keys() | new.keys()):
        default = TrainSettings.left_out(name) if name in TrainSettings.model_fields else "unknown"
        left, right = old.get(name, default), new.get(name, default)
        if left != right:
            found.append(f"train.{name} {left} -> {right}")
    old, new = before.get("online", {}), now.get("online", {})
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            found.append(f"{name} {old.get(name, 'default')} -> {new.get(name, 'default')}")
    names = {"shards": "what it reads of the build (digest)", "student": "student", "order_version": "order of examples"}
    for key, name in names.items():
        if before.get(key) != now[key]:
            found.append(f"{name} {before.get(key)} -> {now[key]}")
    if before.get("schema_version") != now["schema_version"]:
        found.append(f"version of run.json {before.get('schema_version')} -> {now['schema_version']}")
    return found
