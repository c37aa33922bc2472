"""Tables in, shards named by their own content out; every write is whole or absent.

A shard is `<stage>/<key>.<rows>.<digest>.parquet`: the name is the commit record, so that knowing what is done takes one
directory scan and no reading. Writes go to a temporary name, are synced, and renamed.
Arrow loads only when a shard is read or written: `kidpipe status` does neither.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kidcore.errors import KidpipeError

if TYPE_CHECKING:
    import pyarrow as pa

TEMPORARY = ".tmp-"
BROKEN = ".broken"


@dataclass(frozen=True, order=True)
class Shard:
    """A finished shard: `key` says what it was made from, `digest` (SHA-256, 32 hex digits) what it holds."""

    stage: str
    key: str
    rows: int
    digest: str

    @property
    def file(self) -> str:
        """Path below the store's root."""
        return f"{self.stage}/{self.key}.{self.rows}.{self.digest}.parquet"

    @classmethod
    def parse(cls, stage: str, name: str) -> "Shard | None":
        """The shard that a file name records, or None for any other file."""
        parts = name.split(".")
        if len(parts) != 4 or parts[3] != "parquet" or not parts[1].isdigit() or name.startswith("."):
            return None
        return cls(stage, parts[0], int(parts[1]), parts[2])


class DamagedShard(KidpipeError):
    """A shard whose bytes are not those its name promises."""

    def __init__(self, shard: Shard, why: str) -> None:
        super().__init__(f"a damaged shard: {why}", where=shard.file, fix="run the build again: it makes just this shard anew")
        self.shard = shard


class Store:
    """A folder of shards, manifests and runs."""

    def __init__(self, root: Path) -> None:
        self.root = root

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
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.path(shard), columns=columns, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise DamagedShard(shard, str(error).splitlines()[0]) from None
        if table.num_rows != shard.rows:
            raise DamagedShard(shard, f"{table.num_rows} rows instead of {shard.rows}")
        return table

    def counts(self, shard: Shard) -> dict[str, Any]:
        """The counts that the stage stored with the shard. Raises DamagedShard."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_metadata(self.path(shard)).metadata or {}
        except (OSError, pa.ArrowException) as error:
            raise DamagedShard(shard, str(error).splitlines()[0]) from None
        counts: dict[str, Any] = json.loads(metadata.get(b"kidpipe", b"{}"))
        return counts

    def commit(self, stage: str, key: str, table: "pa.Table", counts: Mapping[str, Any]) -> Shard:
        """Write `table` as the shard of `key`, with its counts in the footer; the same rows give the same bytes."""
        import pyarrow.parquet as pq

        folder = self.root / stage
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{TEMPORARY}{os.getpid()}-{key}"
        table = table.replace_schema_metadata({b"kidpipe": json.dumps(counts, sort_keys=True).encode()})
        with _room_on_disk(self.root, temporary):
            pq.write_table(table, temporary, compression="zstd", row_group_size=1024, store_schema=True)
            digest = hash_file(temporary)
            shard = Shard(stage, key, table.num_rows, digest)
            _sync(temporary)
            temporary.replace(self.path(shard))
            _sync(folder)
        return shard

    def set_aside(self, shard: Shard) -> Path:
        """Rename a damaged shard, so that the next build makes it anew."""
        path = self.path(shard)
        return path.rename(path.with_name(path.name + BROKEN))

    def write_json(self, name: str, value: Any) -> Path:
        """Write `value` under the root, whole or not at all."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
        with _room_on_disk(self.root, temporary):
            temporary.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        return path

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

    def append_log(self, name: str, record: Mapping[str, Any]) -> None:
        """Add a line of JSON to a log; logs are for reading, nothing is decided by them."""
        path = self.root / "log" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with _room_on_disk(self.root, None), path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(record, sort_keys=True) + "\n")

    def remove_temporaries(self) -> None:
        """Delete what an interrupted writer left; the caller holds the lock."""
        for path in self.root.glob(f"*/{TEMPORARY}*"):
            if path.is_dir():
                # A tokenizer is saved as a folder.
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str = "build") -> Iterator[None]:
        """Hold the store for one driver. Raises KidpipeError that names the holder."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / f"{name}.lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise KidpipeError(
                    f"another {name} holds this store: {holder}", where=str(self.root), fix="wait for it, or stop it"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    def lock_holder(self, name: str = "build") -> str:
        """Who holds the lock, or nothing."""
        try:
            with (self.root / f"{name}.lock").open("r+", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return ""
        except FileNotFoundError:
            return ""
        except OSError:
            return (self.root / f"{name}.lock").read_text(encoding="utf-8").strip()


def hash_file(path: Path) -> str:
    """The first 32 hex digits of the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _room_on_disk(root: Path, temporary: Path | None) -> Iterator[None]:
    """Turn a full disk into a message and take the unfinished file away."""
    try:
        yield
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise KidpipeError(
                "the disk is full; everything finished so far is kept",
                where=str(root),
                fix="free some space (kidpipe gc shows what can go) and run the same command again",
            ) from None
        raise
