"""A demo's folder and the digest of its ingested questions in; what need not wait for the teacher's end, done beside it, out.

First a look at imperfect queries, made by the teacher as it was first saved; then the runs that no teacher is asked for.
Everything is found again by the demo itself: what this process did not finish, it does.

python -m kidpipe.demo.ahead FOLDER DIGEST
"""

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from kidpipe.commands.build import build_imperfect
from kidpipe.commands.demo import STUDENTS_ALONE, Demo
from kidpipe.commands.session import Session
from kidpipe.demo.look import look_lines
from kidpipe.demo.recipe import DemoRecipe

_LOOKED_AT = 16


def main() -> None:
    """The first look on stdout, then the runs, silently."""
    demo = Demo(Path(sys.argv[1]), DemoRecipe(), "transformers", verbose=False)
    wait_for(demo.folder / "runs" / "teacher" / "best")
    print(first_look(demo), flush=True)
    train_ahead(demo, sys.argv[2])


def wait_for(folder: Path) -> None:
    """Return when `folder` is there; a folder of a run appears whole."""
    while not folder.exists():
        time.sleep(0.2)


def first_look(demo: Demo) -> str:
    """Some imperfect queries by the teacher as it is now, with their gold."""
    preview = demo.folder / "preview"
    shutil.rmtree(preview, ignore_errors=True)
    # A copy: the run puts a better one in its place at any moment.
    shutil.copytree(demo.folder / "runs" / "teacher" / "best", preview / "teacher")
    small = {"store__path": str(preview), "teacher__model": str(preview / "teacher"), "data__limit": _LOOKED_AT}
    session = _silent(demo.session(**small, mask__views=1))
    build_imperfect(session, until="rewrite", as_json=False)
    return "\n".join(look_lines(session, "first imperfect queries, by the teacher as it is now:"))


def train_ahead(demo: Demo, digest: str) -> None:
    """Do the runs that read gold alone, as the demo will ask for them."""
    for name in STUDENTS_ALONE:
        demo.train_student(name, digest=digest, is_silent=True)


def _silent(session: Session) -> Session:
    return replace(session, is_silent=True)


if __name__ == "__main__":
    main()
