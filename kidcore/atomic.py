"""A file's new content in; all of it or nothing on the disk out, whatever stops the writer.

A writer names its unfinished file after itself (host, process, a random part), so that whoever tidies up can tell
what a dead writer left from what a living one is at.
"""

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any

from kidcore.errors import KidpipeError

TEMPORARY = ".tmp-"
# Of a process that can't be looked up from here, we know only when it last wrote: no shard and no checkpoint takes so long.
_ABANDONED_S = 24 * 3600.0
_NAME = re.compile(rf"{re.escape(TEMPORARY)}(?P<host>[^+]+)\+(?P<pid>\d+)\+(?P<started>\d+)\+[0-9a-f]{{8}}-.+", re.DOTALL)


@dataclass(frozen=True)
class Owner:
    """A process, told apart from others of its number: on other machines, in other containers, before and after it."""

    host: str
    pid: int
    started: int
    """In clock ticks since the machine started; 0 where the system does not say."""

    def is_alive(self) -> bool | None:
        """Whether it runs; None where that can't be seen from this machine or container."""
        if self.host != _host():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it runs, as somebody else
        return started(self.pid) == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition('~')[0]}"


def this_process() -> Owner:
    """Who we are. Asked each time, as forks differ."""
    return Owner(_host(), os.getpid(), started(os.getpid()))


@cache
def _host() -> str:
    """This machine since it was started, and the container, where numbers of processes are its own."""
    name = re.sub(r"[^\w.-]", "_", socket.gethostname())[:64] or "_"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - it names no path
    except OSError:
        return f"{name}~0"
    return f"{name}~{hashlib.sha256((boot + space).encode()).hexdigest()[:8]}"


def started(pid: int) -> int:
    """When a process was started, in clock ticks since the machine was; 0 where the system does not say."""
    try:
        # The name in the second field may hold anything, brackets too.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def temporary_beside(path: Path) -> Path:
    """A name for an unfinished `path`, in the same folder, that no other writer takes."""
    owner = this_process()
    return path.with_name(f"{TEMPORARY}{owner.host}+{owner.pid}+{owner.started}+{secrets.token_hex(4)}-{path.name}")


@contextmanager
def unfinished(path: Path, *, tidy: bool = True) -> Iterator[Path]:
    """A name to write a file or folder to that will be `path`, in a folder that is made; what is there at the end goes.

    With `tidy`, what dead writers of `path` left goes too; that takes a look at the whole folder. Raises KidpipeError on a
    full or read-only disk.
    """
    temporary = temporary_beside(path)
    try:
        with naming_the_disk(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f"{TEMPORARY}*-{glob.escape(path.name)}") if tidy else ():
                if is_abandoned(left):
                    discard(left)
            yield temporary
    finally:
        discard(temporary)


def settle(temporary: Path, path: Path) -> None:
    """Put a finished file or folder in its place; a folder must not stand there yet."""
    sync(temporary)
    temporary.replace(path)
    sync_entry(path.parent)


@contextmanager
def replacing(path: Path, *, is_lasting: bool = True) -> Iterator[Path]:
    """A name to write a file or folder to, which becomes `path` when the block ends well. Raises as `unfinished`.

    What need not last is not waited for until it is on the disk: the processes of this machine see it whole, a power cut may not.
    """
    with unfinished(path) as temporary:
        yield temporary
        if is_lasting:
            settle(temporary, path)
        else:
            temporary.replace(path)


def write_text(path: Path, text: str) -> Path:
    """Write a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write `value` for people and programs to read, whole or not at all."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    # Half a character, as names of files may have, is no UTF-8; written as \udcff it is JSON's own way to say it.
    return write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def append_whole(file: FileIO, text: bytes) -> None:
    """Write all of `text` behind an unbuffered file: in one go, unless the disk takes some of it and refuses only the rest."""
    while text:
        text = text[file.write(text) :]


def read_records(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON, one a line, as `append_whole` leaves them; lines that something tore are left out."""
    records = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(ValueError):
            records.append(json.loads(text))
    return [record for record in records if isinstance(record, dict)]


def sync(path: Path) -> None:
    """Wait until a file, or a folder with all that lies in it, is on the disk."""
    if path.is_dir():
        for item in path.rglob("*"):
            sync_entry(item)
    sync_entry(path)


def sync_entry(path: Path) -> None:
    """Wait until a file, or the list of what lies in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(path: Path) -> None:
    """Delete a file or folder, where there is one and the disk lets us."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    # A disk that has become read-only keeps it; the error that brought us here is the one to tell.
    with suppress(OSError):
        path.unlink(missing_ok=True)


def is_abandoned(path: Path) -> bool:
    """Whether a temporary file or folder is one of ours whose writer is gone."""
    if not path.name.startswith(TEMPORARY):
        return False
    match = _NAME.fullmatch(path.name)
    alive = Owner(match["host"], int(match["pid"]), int(match["started"])).is_alive() if match else None
    if alive is not None:
        return not alive
    try:
        return time.time() - path.stat().st_mtime > _ABANDONED_S
    except FileNotFoundError:
        return False


def require_writable(folder: Path) -> None:
    """Raise KidpipeError where nothing could be written into `folder`, which need not be there yet; nothing is left there."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    with unfinished(there / folder.name, tidy=False) as temporary:
        temporary.touch()


@contextmanager
def naming_the_disk(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a message."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise KidpipeError(
                "the disk is full; everything finished so far is kept",
                where=str(folder),
                fix="free some space (kidpipe gc shows what can go) and run the same command again",
            ) from None
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) or "Read-only file system" in str(error):
            raise KidpipeError(
                f"nothing can be written here: {error.strerror or error}",
                where=str(folder),
                fix="make it writable, or set store.path to another folder",
            ) from None
        raise
