"""A manifest in; what of it one training method reads out."""

from collections.abc import Mapping
from typing import Any

from kidcore.config.config import Method
from kidcore.config.settings import fingerprint
from kidcore.method.methods import METHODS
from kidcore.store.manifest import STAGES


def restricted(manifest: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """The manifest as if nothing that `method` does not read had been built: what others need makes no other run of this one.

    For methods on stored scores only `generate` is left out, which was added to STAGES after runs had been made.
    """
    traits = METHODS[method]
    is_narrow = traits.is_online or traits.stage == "generate"
    kept = {"ingest", traits.stage} if is_narrow else set(STAGES) - {"generate"}
    other = set(STAGES) - kept
    facts = {"digest", "views", "teacher"} if is_narrow else {"digest"}
    body = {name: value for name, value in manifest.items() if name not in facts}
    for name in ("stages", "counts"):
        body[name] = {stage: value for stage, value in manifest[name].items() if stage in kept}
    body["parts"] = [{name: value for name, value in part.items() if name not in other} for part in manifest["parts"]]
    return {"digest": fingerprint(body), **body}
