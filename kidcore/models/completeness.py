"""A model folder in; a refusal out when its weights are not those that its configuration asks for.

Nothing but headers is read here; meta_model holds them against the model.
"""

from pathlib import Path
from typing import Any

from kidcore.config.digests import FileDigests
from kidcore.config.settings import fingerprint
from kidcore.models.weights import StoredTensor, stored_tensors, weight_files

_VERSION = 3
"""Of these checks: a higher one makes remembered verdicts void."""


def require_complete(folder: Path, digests: FileDigests) -> None:
    """Refuse a folder whose weights are cut, missing, or others than config.json asks for.

    Headers are read each time, in milliseconds. Holding them against the model loads torch, so that is done once for each
    configuration and set of headers, and `digests` remembers it.

    Raises:
        KidpipeError: what is wrong, in which file, and how to mend it.
    """
    tensors = stored_tensors(folder)
    key = f"complete {fingerprint([_VERSION, _config(folder), _shapes(folder, tensors)])}"
    if digests.is_known(key):
        return
    # Half a second to five of imports: only where a verdict is not remembered.
    from kidcore.models.meta_model import hold_against_model

    hold_against_model(folder, tensors)
    digests.know(key)
    digests.save()


def _config(folder: Path) -> str:
    return (folder / "config.json").read_text(encoding="utf-8")


def _shapes(folder: Path, tensors: dict[str, StoredTensor] | None) -> Any:
    """What the verdict depends on; of a pickle only size and time are known without reading it."""
    if tensors is not None:
        return {name: [tensor.dtype, *tensor.shape] for name, tensor in tensors.items()}
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in weight_files(folder)]
