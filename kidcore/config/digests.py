"""Files in, their SHA-256 out, remembered so that nobody reads gigabytes twice."""

import hashlib
import json
import logging
import time
from pathlib import Path

from kidcore.atomic import write_text
from kidcore.errors import KidpipeError
from kidcore.locks import waiting_for

_LARGE_BYTES = 1 << 24
"""From here on one process hashes and the others wait: 64 ranks need not read a teacher 64 times."""
_SETTLED_S = 2.0
"""A file changed so lately may change again within one tick of its file system's clock: its digest is not kept."""

_log = logging.getLogger(__name__)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileDigests:
    """SHA-256 of files by (path, size, modification time, inode), kept in a JSON file (None: not kept).

    Processes that share the JSON file hash a large file once between them: the first goes ahead, the others wait.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._digests = self._read()
        self._learnt: dict[str, str] = {}

    def digest(self, path: Path) -> str:
        """The hex digest of the file's bytes."""
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
        if key in self._digests:
            return self._digests[key]
        if self._path is None or stat.st_size < _LARGE_BYTES:
            found = hash_file(path)
        else:
            with waiting_for(self._path.with_suffix(".lock")):
                self._digests |= self._read()
                if key in self._digests:
                    return self._digests[key]
                found = hash_file(path)
                self._keep(key, found, stat.st_mtime)
                self._write()
                return found
        self._keep(key, found, stat.st_mtime)
        return found

    def is_known(self, fact: str) -> bool:
        """Whether `know` was told this before: the outcome of a check that is dear to repeat."""
        return fact in self._digests

    def know(self, fact: str, value: str = "1") -> None:
        """Remember that something holds, or what came of something; `fact` names all that it depends on, and has no `|`."""
        self._digests[fact] = self._learnt[fact] = value

    def recall(self, fact: str) -> str | None:
        """What `know` was told of this, if anything."""
        return self._digests.get(fact)

    def save(self) -> None:
        """Write down what was learnt, beside what others have learnt meanwhile."""
        if self._path is not None and self._learnt:
            with waiting_for(self._path.with_suffix(".lock")):
                self._write()

    def _keep(self, key: str, digest: str, modified: float) -> None:
        self._digests[key] = digest
        if time.time() - modified > _SETTLED_S:
            self._learnt[key] = digest

    def _write(self) -> None:
        assert self._path is not None
        # A file has one entry: what was known of it before it changed is of no use.
        latest = {key.rsplit("|", 3)[0]: (key, digest) for key, digest in (self._read() | self._learnt).items()}
        try:
            write_text(self._path, json.dumps(dict(latest.values()), indent=0, sort_keys=True))
        except (OSError, KidpipeError) as error:
            _log.debug("%s: not kept: %s", self._path, error)  # a store that can only be read is planned all the same
        self._learnt = {}

    def _read(self) -> dict[str, str]:
        """A memory that cannot be read is an empty one: everything in it can be computed again."""
        try:
            digests = json.loads(self._path.read_text(encoding="utf-8")) if self._path else {}
        except (OSError, ValueError):
            return {}
        return {str(key): str(value) for key, value in digests.items()} if isinstance(digests, dict) else {}
