"""A shard in; columns of it, decoded, in a file that is mapped, out: a machine's processes decode each shard once between them.

Several processes train on the same window of shards, each on its own packs. To plan the packs all of them look at prompts and
SQL; the teacher's distributions, which are most of a shard, come into memory only where a process's own packs have them.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from kidcore.atomic import replacing, this_process
from kidcore.config.settings import fingerprint
from kidcore.locks import waiting_for

_FOLDER = "rows"
_LOCKS = 16
"""So that one process can decode a shard while another decodes the next."""


@dataclass(frozen=True)
class SharedRows:
    """A folder of decoded shards, of which the `most` that were used last are kept."""

    folder: Path
    most: int

    def table(self, path: Path, columns: list[str], read: Callable[[Path, list[str]], pa.Table]) -> pa.Table:
        """The columns of the shard at `path`: mapped, or what `read` makes of it, which the others will find then."""
        name = fingerprint([path.name, columns])
        file = self.folder / f"{name}.arrow"
        if (known := _mapped(file)) is not None:
            return known
        with waiting_for(self.folder / f"{int(name, 16) % _LOCKS}.lock"):
            if (known := _mapped(file)) is not None:
                return known
            table = read(path, columns).combine_chunks()
            with (
                suppress(FileNotFoundError),  # a run that ended has dropped the folder meanwhile
                replacing(file, is_lasting=False) as temporary,
                pa.OSFile(str(temporary), "wb") as sink,
                pa.ipc.new_file(sink, table.schema) as out,
            ):
                out.write_table(table)
        self._drop_oldest()
        return _mapped(file) or table

    def _drop_oldest(self) -> None:
        """A process that has mapped a file keeps it; one that comes later decodes the shard again."""
        found = []
        for file in self.folder.glob("*.arrow"):
            with suppress(FileNotFoundError):
                found.append((file.stat().st_mtime_ns, file))
        for _, file in sorted(found, reverse=True)[self.most :]:
            file.unlink(missing_ok=True)


def shared_in(cache: Path, most: int) -> SharedRows:
    """Those of a machine since it was started, whose folder for what is made once is `cache`.

    Files are not synced, which takes longer than to write them; what a power cut left of them is not looked at.
    """
    return SharedRows(cache / _FOLDER / this_process().host, most)


def drop_shared(cache: Path) -> None:
    """Remove what is decoded: nobody needs it where no run is under way, and another run decodes anew what it comes to."""
    shutil.rmtree(cache / _FOLDER, ignore_errors=True)


def _mapped(file: Path) -> pa.Table | None:
    """What was written there; None where there is nothing, or nothing that can be read."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        os.utime(file)
    except (pa.ArrowException, OSError):
        return None
    return table
