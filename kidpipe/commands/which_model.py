"""What a person called a model in; the folder or the Hub name that is meant out, and what the person would call it."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from kidcore.errors import KidpipeError
from kidpipe.commands.session import Session

_LOG = logging.getLogger(__name__)


def find_model(session: Session, model: str) -> str:
    """The folder or Hub name that `model` means: a run of this store, the newest whose name begins so (a method's), a folder, a
    Hub name with its owner, or, where nothing is named, the newest finished run."""
    runs = session.store.root / "runs"
    students = sorted(runs.glob("*/best"), key=lambda path: path.stat().st_mtime_ns)
    finished = [path for path in students if not _is_unfinished(path.parent)]
    if not model:
        if not students:
            raise KidpipeError(
                "no model is named, and no run here is finished", fix="name a model's folder, or kidpipe train first"
            )
        return _said(_best_of(finished or students))
    if (runs / model / "best").is_dir():
        return _best_of([runs / model / "best"])
    if "/" in model or Path(model).exists():
        return model
    # A plain word is a run or the beginning of one (kid, sft); models on the Hub have an owner before their name.
    for some in (finished, students):
        if alike := [path for path in some if path.parent.name.startswith(f"{model}-")]:
            return _said(_best_of(alike))
    known = ", ".join(path.parent.name for path in reversed(finished[-8:])) or "none"
    begun = (runs / model).is_dir()
    raise KidpipeError(
        f"run {model} is not finished" if begun else f"there is no run or folder {model}",
        where=str(runs),
        fix=f"finished runs, the newest first: {known}; a model on the Hub is named with its owner, owner/{model}",
    )


def _is_unfinished(run: Path) -> bool:
    """Whether training in that folder was begun and has not ended; of a student that was copied there nothing is known."""
    return (run / "run.json").is_file() and not (run / "result.json").exists()


def _best_of(students: Sequence[Path]) -> str:
    """The newest of them, with a word where its run goes on, or was interrupted: another student may take its place."""
    if _is_unfinished(students[-1].parent):
        _LOG.warning("run %s is not finished: this is its best student so far", students[-1].parent.name)
    return str(students[-1])


def _said(student: str) -> str:
    """With a word on whose student it is, where the run was not named in full: the newest may not be the one that is meant."""
    _LOG.info("the newest such run: %s", Path(student).parent.name)
    return student


def name_of(session: Session, folder: str) -> str:
    """What an evaluation of that model is called where its user gives it no name."""
    run, student = _student_of_run(session, folder)
    # A run's best and last student are judged beside each other.
    name = f"{run}-last" if student == "last" else run or folder
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")


def run_or_model(session: Session, folder: str) -> str:
    """The run whose best student this is, which is what its name means; else what was given."""
    run, student = _student_of_run(session, folder)
    return run if student == "best" else folder


def _student_of_run(session: Session, folder: str) -> tuple[str, str]:
    """The run of this store, by whatever path that is reached, and which of its students this is: best or last; else empty."""
    path = Path(folder).absolute()
    is_of_run = path.name in ("best", "last") and path.parent.parent.resolve() == (session.store.root / "runs").resolve()
    return (path.parent.name, path.name) if is_of_run else ("", "")
