"""Figures in; out/log.jsonl, one JSON object a line, out. A resumed run continues where its checkpoint was written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from kidcore.atomic import append_whole
from train.checkpoint import not_written
from train.tracking import Trackers


class RunLog:
    """An append-only log that can be cut back to what a checkpoint knew, so that no step is in it twice."""

    def __init__(self, path: Path | None, size: int, trackers: Trackers | None = None) -> None:
        """Open `path` and drop everything behind its first `size` bytes; None keeps no log. `trackers` get each line too."""
        self._path = path or Path(os.devnull)
        self._trackers = trackers
        if trackers is not None and path is not None:
            trackers.follow(path, size)
        # Unbuffered, or closing the file after a failed write would try it again.
        self._file = self._path.open("ab", buffering=0)
        self._is_kept = path is not None
        if path is not None:
            # One that lost lines since (it was cut, or deleted) would be filled up with zeros.
            self._file.truncate(min(size, path.stat().st_size))
            self._file.seek(0, os.SEEK_END)
            if not _ends_a_line(path):
                append_whole(self._file, b"\n")

    def write(self, figures: Mapping[str, object]) -> None:
        """Append one line."""
        try:
            append_whole(self._file, (json.dumps(dict(figures)) + "\n").encode())
        except OSError as error:
            raise not_written(self._path, error) from error
        if self._trackers is not None:
            self._trackers.log(figures)

    def commit(self) -> int:
        """Make everything durable; returns the size in bytes, for the checkpoint."""
        if not self._is_kept:
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def _ends_a_line(path: Path) -> bool:
    """Whether a new line can follow what the file holds."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
