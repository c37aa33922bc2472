"""A manifest in; what of it one training method reads out."""

from dataclasses import replace

from kidcore.config.config import Method
from kidcore.method.methods import METHODS
from kidcore.store.manifest import Manifest
from kidcore.store.stages import STAGE_TABLE


def restricted(manifest: Manifest, method: Method) -> Manifest:
    """The manifest as if nothing that `method` does not read had been built: what others need makes no other run of this one.

    For methods on stored scores only stages that run on request are left out, which were added after runs had been made.
    """
    traits = METHODS[method]
    if traits.is_online or traits.answers:
        narrow = replace(manifest, facts=replace(manifest.facts, views=None, teacher=None))
        return narrow.only({"ingest", traits.stage})
    return manifest.only({row.name for row in STAGE_TABLE.values() if not row.is_on_request})
