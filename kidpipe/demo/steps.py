"""A demo's settings in; its sessions, and its steps announced and timed, out: what both demos do alike."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rich.text import Text

from kidpipe.commands.session import Session, open_session

Result = TypeVar("Result")


class DemoSteps(ABC):
    """One run of a demo in its folder."""

    folder: Path
    verbose: bool
    seconds: dict[str, float]
    """Of each step that is done."""

    @abstractmethod
    def settings(self, folder: Path) -> dict[str, Any]:
        """The demo's settings; `folder` is where it lies, as they name it."""

    def session(self, **changes: Any) -> Session:
        """A session with the demo's settings; `section__field=value` changes them."""
        settings = self.settings(self.folder) | {name.replace("__", "."): value for name, value in changes.items()}
        # The working folder's kidpipe.toml is another project's: the demo stands on its own settings.
        return replace(open_session(None, [], settings, self.verbose, use_file=False), is_step=True)

    def step(self, name: str, title: str, work: Callable[[], Result]) -> Result:
        """Announce, do and time a step."""
        self.session().console.print(Text.assemble("\n", (title, "bold")))
        started = time.perf_counter()
        result = work()
        self.seconds[name] = round(time.perf_counter() - started, 1)
        return result
