"""Tables in, shards named by their own content out; every write is whole or absent.

A shard is `<stage>/<key>.<rows>.<digest>.parquet`: the name is the commit record, so that knowing what is done takes one
directory scan and no reading. Files of any other name are not ours: they are neither read nor deleted.
Arrow loads only when a shard is read or written: `kidpipe status` does neither.
"""

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kidcore import atomic, locks
from kidcore.config.digests import FileDigests
from kidcore.errors import KidpipeError, first_line
from kidcore.store import log

if TYPE_CHECKING:
    import pyarrow as pa

BROKEN = ".broken"
_NOT_DAMAGE = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ELOOP}
"""What the system says of files that may be whole."""
_NAME = re.compile(r"([0-9a-f]{32})\.([0-9]{1,18})\.([0-9a-f]{32})\.parquet")


@dataclass(frozen=True, order=True)
class Shard:
    """A finished shard: `key` says what it was made from, `digest` (SHA-256, 32 hex digits) what rows it holds."""

    stage: str
    key: str
    rows: int
    digest: str

    @property
    def file(self) -> str:
        """Path below the store's root."""
        return f"{self.stage}/{self.key}.{self.rows}.{self.digest}.parquet"

    @classmethod
    def at(cls, file: str) -> "Shard":
        """The shard whose `file` this is, as manifests have it."""
        stage, _, name = file.partition("/")
        shard = cls.parse(stage, name)
        assert shard is not None, file
        return shard

    @classmethod
    def parse(cls, stage: str, name: str) -> "Shard | None":
        """The shard that a file name records, or None for any other file."""
        match = _NAME.fullmatch(name)
        return cls(stage, match[1], int(match[2]), match[3]) if match else None


class DamagedShard(KidpipeError):
    """A shard whose bytes are not those its name promises."""

    def __init__(self, shard: Shard, why: str) -> None:
        super().__init__(f"a damaged shard: {why}", where=shard.file, fix="run the build again: it makes just this shard anew")
        self.shard = shard
        self.why = why

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled with their message alone, and this one comes from other processes.
        return type(self), (self.shard, self.why)


class Store:
    """A folder of shards, manifests and runs; `lock_kind` says how its one driver is kept the only one."""

    def __init__(self, root: Path, lock_kind: locks.LockKind = "auto", shard_log: Path = log.SHARDS) -> None:
        self.root = root
        self.lock_kind = lock_kind
        self.shard_log = shard_log
        """Where `commit` tells of shards, below the root."""

    def scan(self, stage: str) -> dict[str, Shard]:
        """The finished shards of a stage by key, from file names alone."""
        shards: dict[str, Shard] = {}
        try:
            entries = os.scandir(self.root / stage)
        except FileNotFoundError:
            return shards
        with entries:
            for entry in entries:
                shard = Shard.parse(stage, entry.name)
                # Two engines may have made one key with different last bits: every reader takes the same one.
                if shard and (shard.key not in shards or shard < shards[shard.key]):
                    shards[shard.key] = shard
        return shards

    def path(self, shard: Shard) -> Path:
        return self.root / shard.file

    def read(self, shard: Shard, columns: list[str] | None = None) -> "pa.Table":
        """The shard's rows, all columns or those named. Raises DamagedShard for a file that is unreadable or of other rows."""
        files = _shard_files()
        try:
            table: pa.Table = files.pq.read_table(self.path(shard), columns=columns, partitioning=None)
        except (OSError, files.pa.ArrowException) as error:
            raise self._unread(shard, error) from None
        if table.num_rows != shard.rows:
            raise DamagedShard(shard, f"{table.num_rows} rows instead of {shard.rows}")
        return table

    def size(self, shard: Shard) -> int:
        """Bytes of the shard's file. Raises DamagedShard where it is gone."""
        try:
            # As a text: a path of its own for each of 30,000 shards takes longer than to look at their files.
            return os.stat(f"{self.root}/{shard.file}").st_size  # noqa: PTH116
        except OSError as error:
            raise self._unread(shard, error) from None

    def counts(self, shard: Shard) -> dict[str, Any]:
        """The counts that the stage stored with the shard. Raises DamagedShard."""
        counts: dict[str, Any] = self._footer(shard).counts
        return counts

    def provenance(self, shard: Shard) -> dict[str, Any]:
        """What the shard says of its making; empty for those of kidpipe 0.1, which say nothing. Raises DamagedShard."""
        provenance: dict[str, Any] = self._footer(shard).provenance
        return provenance

    def _footer(self, shard: Shard) -> Any:
        files = _shard_files()
        try:
            return files.read_footer(self.path(shard))
        except (OSError, ValueError, files.pa.ArrowException) as error:
            raise self._unread(shard, error) from None

    def _unread(self, shard: Shard, error: Exception) -> KidpipeError:
        """What to raise for a shard that could not be read: most often it is damaged, but not where the system would not open it.

        A build makes damaged shards anew, at a teacher's cost; one that is whole must not go that way because too many
        files were open.
        """
        if isinstance(error, OSError) and error.errno in _NOT_DAMAGE:
            fix = "see what the system says; the shard may well be whole, and stays"
            return KidpipeError(f"a shard can't be opened: {first_line(error)}", where=str(self.path(shard)), fix=fix)
        return DamagedShard(shard, first_line(error))

    def commit(
        self,
        stage: str,
        key: str,
        table: "pa.Table",
        counts: Mapping[str, Any],
        line: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Shard:
        """Write `table` as the shard of `key`, with its counts in the footer; the same rows give the same digest.

        Args:
            line: what the log of shards is to say of it. It comes before the shard is seen: one that is killed in between
                is made and told again, while a shard without a line would never be known the maker of.
            provenance: what the footer is to say of its making, beside its name.
        """
        files = _shard_files()
        shard = Shard(stage, key, table.num_rows, files.rows_digest(table, counts))
        with atomic.unfinished(self.root / stage / key, tidy=False) as temporary:
            files.write_shard(temporary, table, counts, dict(provenance or {}) | _name(shard))
            if line is not None:
                log.append(self.root / self.shard_log, line)
            atomic.settle(temporary, self.path(shard))
        return shard

    def is_as_written(self, shard: Shard) -> bool:
        """Whether the file's bytes are those that were written under its name."""
        whole: bool = _shard_files().is_whole(self.path(shard), shard.digest, _name(shard))
        return whole

    def set_aside(self, shard: Shard) -> Path:
        """Rename a damaged shard, so that the next build makes it anew; one that is gone needs nothing."""
        path = self.path(shard)
        broken = path.with_name(path.name + BROKEN)
        with suppress(FileNotFoundError):
            path.rename(broken)
        return broken

    def write_json(self, name: str, value: Any) -> Path:
        """Write `value` under the root, whole or not at all."""
        return atomic.write_json(self.root / name, value)

    def read_json(self, name: str) -> Any:
        """What `write_json` wrote, or None."""
        try:
            return json.loads((self.root / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise KidpipeError(
                f"not readable: {error}", where=str(self.root / name), fix="remove the file and build again"
            ) from None

    def known_object(self, name: str) -> dict[str, Any]:
        """The JSON object there; empty where there is none or the file is damaged: for what is shown, and decides nothing."""
        try:
            found = self.read_json(name)
        except (KidpipeError, OSError):
            return {}
        return found if isinstance(found, dict) else {}

    def remember_settings(self, name: str, stage: str, settings: Mapping[str, Any]) -> None:
        """Keep the settings of a stage under their fingerprint, so that it can be said what shards were made with."""
        if not (self.root / "settings" / f"{name}.json").exists():
            self.write_json(f"settings/{name}.json", {"stage": stage, "settings": dict(settings)})

    def values_used(self, stage: str, settings: Sequence[str]) -> list[dict[str, Any]]:
        """The values that some settings had when shards of a stage were made, each once; unreadable files left out."""
        found: list[dict[str, Any]] = []
        for path in (self.root / "settings").glob("*.json"):
            with suppress(KidpipeError, KeyError, TypeError, OSError):
                kept = self.read_json(f"settings/{path.name}")
                if kept["stage"] == stage and (values := {name: kept["settings"][name] for name in settings}) not in found:
                    found.append(values)
        return sorted(found, key=repr)

    def remove_temporaries(self) -> None:
        """Delete what writers that are gone left; what living ones are at stays."""
        for path in (*self.root.glob(f"{atomic.TEMPORARY}*"), *self.root.glob(f"*/{atomic.TEMPORARY}*")):
            if atomic.is_abandoned(path):
                atomic.discard(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for one driver. Raises KidpipeError that names the holder."""
        with locks.hold(self._lock_file, self.lock_kind):
            yield

    @property
    def digests(self) -> FileDigests:
        """Those of the large files that were read for this store, remembered in it."""
        return FileDigests(self.root / "digests.json")

    @property
    def is_writable(self) -> bool:
        """Whether this user could hold the store, as far as the system says."""
        return os.access(self._lock_file if self._lock_file.exists() else self.root, os.W_OK)

    def lock_holder(self) -> str:
        """Who holds the lock, or nothing; the lock itself is not touched."""
        return locks.holder(self._lock_file)

    @property
    def lock_mark(self) -> str:
        """What tells who holds the lock from any other holder; empty where nobody does."""
        return locks.mark(self._lock_file)

    @property
    def _lock_file(self) -> Path:
        return self.root / "build.lock"


def _name(shard: Shard) -> dict[str, Any]:
    """A shard's name, as its footer says it."""
    return {"stage": shard.stage, "key": shard.key, "rows": shard.rows, "digest": shard.digest}


def _shard_files() -> Any:
    """What reads and writes shards, with Arrow, which takes a tenth of a second to load."""
    from kidcore.store import shard_files

    return shard_files
