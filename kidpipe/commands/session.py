"""What every command starts with: the resolved configuration, the store, quiet libraries, one way to print."""

import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kidcore.config import processes
from kidcore.config.config import Config
from kidcore.config.config_load import Loaded, load_config
from kidcore.console import open_console
from kidcore.errors import KidpipeError
from kidcore.finite import finite
from kidcore.sql.text_files import visible
from kidcore.store.manifest import Manifest, read_manifest
from kidcore.store.store import Store

# rich takes a tenth of a second to load: only what prints for people loads it.
if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from kidcore.progress import WorkProgress

_LONGEST_NAME = 200
"""Bytes; files may have 255, and what is unfinished has a longer name."""


@dataclass(frozen=True)
class Session:
    """One command's surroundings."""

    loaded: Loaded
    verbose: bool
    is_silent: bool = False
    """Whether nothing is printed, for callers from Python."""
    is_step: bool = False
    """Whether this is a step of another command, which goes on by itself: nobody is told what to type next."""

    @cached_property
    def console(self) -> "Console":
        """For results. Into a file or a pipe nothing is folded at 80 columns."""
        is_terminal = sys.stdout.isatty()
        size = _terminal_size() if is_terminal else {"width": 160}
        return open_console(soft_wrap=not is_terminal, quiet=self.is_silent, **size)

    @cached_property
    def errors(self) -> "Console":
        """For progress, on stderr, so that stdout holds results only."""
        return open_console(stderr=True, quiet=self.is_silent, **(_terminal_size() if sys.stderr.isatty() else {}))

    def progress(self) -> "WorkProgress":
        """Lines with bar, count, rate and time left, on stderr: bars on a terminal, else a line at half minutes."""
        from kidcore.progress import WorkProgress

        return WorkProgress(self.errors, not self.is_silent)

    @property
    def config(self) -> Config:
        return self.loaded.config

    @property
    def store(self) -> Store:
        return Store(Path(self.config.store.path), self.config.store.lock)

    def manifest(self) -> Manifest:
        """The latest manifest. Raises KidpipeError before the first build."""
        manifest = read_manifest(self.store)
        if manifest is None:
            raise KidpipeError("nothing has been built here", where=str(self.store.root), fix="kidpipe build-imperfect")
        return manifest

    def folder_of(self, kind: str, name: str) -> Path:
        """The folder of the run, evaluation or comparison called `name`, there or not; `kind` is the folder that holds them.

        Raises:
            KidpipeError: it would be a folder elsewhere, or none at all.
        """
        is_one = name not in ("", ".", "..") and not any(mark in name for mark in "/\\\0")
        if not is_one or len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
            raise KidpipeError(
                f"{name[:80]!r} is no name for a folder below {kind}/ in the store",
                where="--name",
                fix=f"leave slashes out; at most {_LONGEST_NAME} bytes",
            )
        return self.store.root / kind / name

    def print_json(self, value: Any) -> None:
        """One document for scripts. NaN and infinities, which JSON has no words for, are null."""
        narrow = not (sys.stdout.encoding or "").lower().startswith("utf")
        text = json.dumps(finite(value), indent=1, ensure_ascii=narrow, allow_nan=False)
        # A lone surrogate is written as JSON escapes it: no stream takes it as it is.
        print(visible(text))


def open_session(
    file: Path | None, settings: list[str], flags: Mapping[str, Any], verbose: bool = False, *, use_file: bool = True
) -> Session:
    """Read the configuration; `settings` are `section.field=value` texts, `flags` those of named options (None = not given)."""
    quieten(verbose)
    named: dict[str, Any] = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator or not name.strip():
            lacking = "name" if separator else "value"
            fix = "write --set section.field=value, as in --set mask.ratio=0.3"
            raise KidpipeError(f"--set {setting}: no {lacking}", fix=fix)
        named[name.strip()] = value.strip()
    named |= {name: value for name, value in flags.items() if value is not None}
    return Session(load_config(file, named, use_file=use_file), verbose)


def quieten(verbose: bool) -> None:
    """Keep the libraries' chatter off unless asked for; our own messages go to stderr, from the first process only."""
    handler = logging.StreamHandler()
    for package in ("kidpipe", "pipeline", "train", "eval", "kidcore"):
        log = logging.getLogger(package)
        log.handlers = [handler]
        heard = logging.DEBUG if verbose else logging.INFO
        log.setLevel(heard if processes.rank() == 0 else logging.CRITICAL)
        log.propagate = False
    if verbose:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _terminal_size() -> dict[str, Any]:
    """What the terminal says. Asked here because rich takes every TERM=dumb for one of 80 columns."""
    columns, lines = shutil.get_terminal_size()
    return {"width": columns, "height": lines}


def text_table(title: str, columns: Mapping[str, str]) -> "Table":
    """A table whose columns are named with their justification."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name, justify in columns.items():
        table.add_column(name, justify="right" if justify == "right" else "left")
    return table


def show_seconds(seconds: float | None) -> str:
    """A duration as a person says it; `?` for an unknown one."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_bytes(number: int) -> str:
    """A size with a binary unit."""
    size = float(number)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
