"""A lock's name in; one holder at a time out, on file systems that have flock and on those that have not.

`build.lock` is locked with flock and says who holds it. Where there is no flock (many network file systems), the holder
is whoever makes `build.lock.held`: it writes a beat into it every few seconds, so that another machine can tell a holder
that works from one that died, without comparing clocks.
"""

import fcntl
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from kidcore.atomic import Owner, naming_the_disk, this_process
from kidcore.errors import KidpipeError

LockKind = Literal["auto", "flock", "file"]

BEAT_S = 5.0
SILENCE_S = 45.0
"""A holder on another machine that writes no beat for so long is dead: nine beats, as network file systems cache."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Record:
    """What a lock's file says."""

    owner: Owner
    token: str = ""
    beats: int = 0

    def as_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


@contextmanager
def hold(path: Path, kind: LockKind = "auto", busy: str = "another build holds this store") -> Iterator[None]:
    """Hold the lock of this name; `busy` is said where it is taken. `auto` is flock where the file system has it.

    Raises:
        KidpipeError: somebody else holds it (who, it says), the file system has no flock where `kind` asks for it, or
            nothing can be written there.
    """
    with naming_the_disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    with file:
        by_flock = kind != "file" and _flock(file.fileno(), path, busy, must=kind == "flock")
        if not by_flock:
            with _holding_file(_held_file(path), path, busy):
                yield
            return
        if _held_file(path).exists() and not _cleared(_held_file(path)):
            raise _refusal(path, busy)  # a machine without flock is at it
        with naming_the_disk(path.parent):
            _write(file.fileno(), _Record(this_process()))
        try:
            yield
        finally:
            os.ftruncate(file.fileno(), 0)


@contextmanager
def waiting_for(path: Path) -> Iterator[None]:
    """Hold the lock after all who came before; where there is no flock or no writing, go ahead without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError:
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            _log.debug("%s: no flock here, not waiting for others", path)
        yield


def holder(path: Path) -> str:
    """Who holds the lock, or nothing; read from what the holder wrote, without touching the lock."""
    for file in (path, _held_file(path)):
        try:
            text = file.read_bytes()
            age = time.time() - file.stat().st_mtime
        except OSError:
            continue
        record = _parse(text)
        if record is None:
            if re.match(rb"process \d+ on ", text):  # as kidpipe 0.1.0 wrote it
                return text.decode("utf-8", "replace").strip()
            continue
        alive = record.owner.is_alive()
        if alive:
            return str(record.owner)
        if alive is None:
            heard = f", last heard of {max(age, 0):.0f} s ago" if record.beats else ", which cannot be seen from here"
            return f"{record.owner}{heard}"
    return ""


def mark(path: Path) -> str:
    """What tells the holder from any other, the same as long as it holds the lock; empty where nobody is known to."""
    record = _read(_held_file(path)) or _read(path)
    return "" if record is None else replace(record, beats=0).as_bytes().decode()


def _flock(descriptor: int, path: Path, busy: str, *, must: bool) -> bool:
    """Whether the file is locked now; False where the file system can't."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _refusal(path, busy) from None
    except OSError as error:
        if must:
            raise KidpipeError(
                f"this file system has no flock: {error.strerror}", where=str(path), fix="set store.lock = file, or auto"
            ) from None
        _log.debug("%s: no flock here (%s); a lock file is used instead", path, error.strerror)
        return False
    return True


@contextmanager
def _holding_file(held: Path, path: Path, busy: str) -> Iterator[None]:
    """Be the one who made `held`, and show signs of life in it."""
    record = _Record(this_process(), secrets.token_hex(8), 1)
    with naming_the_disk(held.parent):
        _make(held, record, path, busy)
    is_over = threading.Event()
    heart = threading.Thread(target=_beat, args=(held, record, is_over), name=f"beat of {held.name}", daemon=True)
    heart.start()
    try:
        yield
    finally:
        is_over.set()
        heart.join()
        known = _read(held)
        if known is not None and known.token == record.token:
            held.unlink(missing_ok=True)


def _make(held: Path, record: _Record, path: Path, busy: str) -> None:
    for _ in range(3):
        try:
            # Exclusive making of a file is the one thing that network file systems do for one machine at a time.
            descriptor = os.open(held, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if not _cleared(held):
                break
            continue
        try:
            _write(descriptor, record)
        except OSError:
            # Empty, it would be waited for as that of a holder who may live.
            held.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return
    raise _refusal(path, busy)


def _cleared(held: Path) -> bool:
    """Whether the holder is dead; what it left is taken away then, so that nobody has to find that out again."""
    before = _mark(held)
    if not _is_left_behind(held):
        return False
    _take_away(held, before)
    return True


def _mark(file: Path) -> tuple[int, int] | None:
    """What tells a file from another of its name, also where one has the number of a file that is gone, or is torn."""
    try:
        seen = file.stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_mtime_ns


def _take_away(held: Path, dead: tuple[int, int] | None) -> None:
    """Remove a dead holder's file, and no other: it may have gone by itself, and somebody have made a new one in between."""
    if dead is None or _mark(held) != dead:
        return
    aside = held.with_name(f"{held.name}.{secrets.token_hex(4)}")
    try:
        held.rename(aside)
    except FileNotFoundError:
        return
    if _mark(aside) != dead:
        try:
            os.link(aside, held)
        except OSError:
            _log.debug("%s: taken twice", held)
    aside.unlink(missing_ok=True)


def _beat(held: Path, record: _Record, is_over: threading.Event) -> None:
    beats = record.beats
    while not is_over.wait(BEAT_S):
        known = _read(held)
        if known is not None and known.token != record.token:
            _log.error("%s: %s has taken this lock, which was thought to be left behind", held, known.owner)
            return
        beats += 1
        try:
            descriptor = os.open(held, os.O_WRONLY)
        except OSError:
            continue
        try:
            _write(descriptor, _Record(record.owner, record.token, beats))
        finally:
            os.close(descriptor)


def _is_left_behind(held: Path) -> bool:
    """Whether the holder is dead; of one on another machine, whether it is silent for SILENCE_S from now."""
    first = _read(held)
    alive = first.owner.is_alive() if first is not None else None
    if alive is not None:
        return not alive
    until = time.monotonic() + SILENCE_S
    while time.monotonic() < until:
        time.sleep(min(BEAT_S / 5, 1.0))
        if not held.exists() or _read(held) != first:
            return not held.exists()
    return True


def _refusal(path: Path, busy: str) -> KidpipeError:
    return KidpipeError(
        f"{busy}: {holder(path) or 'another process'}",
        where=str(path.parent),
        fix="wait for it, or stop it",
    )


def _held_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


def _read(file: Path) -> _Record | None:
    try:
        return _parse(file.read_bytes())
    except OSError:
        return None


def _parse(text: bytes) -> _Record | None:
    try:
        document = json.loads(text)
        return _Record(Owner(**document["owner"]), str(document["token"]), int(document["beats"]))
    except (ValueError, KeyError, TypeError):
        return None


def _write(descriptor: int, record: _Record) -> None:
    """In place, and never empty: a beat differs from the one before in its number alone, so that readers find one of the two.

    What another holder left may be longer: for a moment a reader finds a torn record, which it takes for a sign of life.
    """
    text = record.as_bytes()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
    os.fsync(descriptor)
