"""What an evaluation says of the model that it judged in; whether that is a certain student of this store out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

IDENTITY = "model_identity"
"""In a summary: of the weights that were judged. Evaluations of an older kidpipe name the place alone."""


def is_of_weights(summary: Mapping[str, Any], identity: str) -> bool | None:
    """Whether a summary is of these weights, wherever they lay; None where one of the two is not known."""
    judged = summary.get(IDENTITY)
    return bool(judged == identity) if judged and identity else None


def is_of_place(summary: Mapping[str, Any], student: Path, root: Path) -> bool:
    """Whether a summary names this student of the store at `root`, or where it was before the store was moved or copied."""
    judged = Path(summary["model"])
    if judged.resolve() == student.resolve():
        return True
    is_named_so = student.parent.parent == root / "runs" and judged.parts[-2:] == student.parts[-2:]
    return is_named_so and (not judged.exists() or _is_same_run(judged.parent, student.parent))


def _is_same_run(one: Path, other: Path) -> bool:
    """Whether two folders hold one run: a store and a copy of it. Runs of one name are others' in other stores."""
    try:
        return (one / "run.json").read_bytes() == (other / "run.json").read_bytes()
    except OSError:
        return False
