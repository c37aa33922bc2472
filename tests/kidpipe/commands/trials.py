"""The folder of a comparison's run in; a process that runs it out, as `kidpipe.study.runs._launch` gives it, but for a fork.

A program of its own imports torch and all that is above it for eight seconds.
"""

import os
import sys
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from kidpipe.study.runs import LOG
from kidpipe.study.trial import main
from tests.forks import Fork, start


@dataclass(frozen=True, eq=False)
class ForkedTrial:
    """What a comparison asks of a process."""

    fork: Fork
    stdin: BytesIO = field(default_factory=BytesIO)

    @property
    def returncode(self) -> int | None:
        return self.fork.poll()

    def poll(self) -> int | None:
        return self.fork.poll()

    def kill(self) -> None:
        self.fork.kill()

    def terminate(self) -> None:
        self.fork.terminate()

    def wait(self) -> int:
        return self.fork.wait()


def trial(folder: Path) -> None:
    """What `python -m kidpipe.study.trial FOLDER` does, its parent always there."""
    log, (reader, _) = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND), os.pipe()
    for descriptor, opened in enumerate((reader, log, log)):
        os.dup2(opened, descriptor)
    sys.argv = ["trial", str(folder)]
    main()


def launch(folder: Path, environment: dict[str, str]) -> ForkedTrial:
    (folder / LOG).touch()
    return ForkedTrial(start(trial, folder, environment=environment))
