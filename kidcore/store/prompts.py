"""Where a store keeps the definition of the prompts of a build: found again from what the manifest says of ingest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kidcore.config.settings import fingerprint
from kidcore.store.store import Store


def prompt_folder(store: Store, ingest_settings: Mapping[str, Any]) -> Path:
    """The folder of prompt.json for the resolved settings of stage ingest, whether or not it is there."""
    return store.root / "prompts" / fingerprint(dict(ingest_settings), 16)
