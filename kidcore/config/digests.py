"""Files in, their SHA-256 out, remembered so that planning does not read gigabytes again."""

import hashlib
import json
import tempfile
from pathlib import Path


class FileDigests:
    """SHA-256 of files, remembered by (path, size, modification time, inode) in a JSON file (None: not remembered)."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._digests = self._read()
        self._known = dict(self._digests)

    def digest(self, path: Path) -> str:
        """The hex digest of the file's bytes."""
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
        if key not in self._digests:
            with path.open("rb") as file:
                self._digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests[key]

    def is_known(self, fact: str) -> bool:
        """Whether `know` was told this before: the outcome of a check that is dear to repeat."""
        return fact in self._digests

    def know(self, fact: str) -> None:
        """Remember that something holds; `fact` names all that it depends on."""
        self._digests[fact] = "1"

    def save(self) -> None:
        """Write down what was learnt."""
        if self._path is None or self._digests == self._known:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False, encoding="utf-8") as file:
            json.dump(self._digests, file, indent=0, sort_keys=True)
        Path(file.name).replace(self._path)

    def _read(self) -> dict[str, str]:
        """A memory that cannot be read is an empty one: everything in it can be computed again."""
        try:
            digests = json.loads(self._path.read_text(encoding="utf-8")) if self._path else {}
        except (OSError, ValueError):
            return {}
        return {str(key): str(value) for key, value in digests.items()} if isinstance(digests, dict) else {}
