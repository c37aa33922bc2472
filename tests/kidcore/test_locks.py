"""One holder at a time, with flock and without; the dead hold nothing, and asking disturbs nobody."""

import errno
import fcntl
import json
import multiprocessing
import multiprocessing.synchronize
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kidcore import locks
from kidcore.errors import KidpipeError


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "build.lock"


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT_S", 0.02)
    monkeypatch.setattr(locks, "SILENCE_S", 2.0)


def no_flock(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def held_by(path: Path, host: str, pid: int, beats: int = 1) -> None:
    record = {"owner": {"host": host, "pid": pid, "started": 1}, "token": "theirs", "beats": beats}
    descriptor = os.open(path.with_name(f"{path.name}.held"), os.O_WRONLY | os.O_CREAT)
    text = json.dumps(record).encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
    os.close(descriptor)


@pytest.mark.parametrize("kind", ["auto", "flock", "file"])
def test_a_second_one_is_refused_and_told_of_the_first(lock: Path, kind: locks.LockKind) -> None:
    with locks.hold(lock, kind):
        assert locks.holder(lock) == f"process {os.getpid()} on {os.uname().nodename}"
        with pytest.raises(KidpipeError, match=f"process {os.getpid()}"), locks.hold(lock, kind):
            pass
    assert locks.holder(lock) == ""
    with locks.hold(lock, kind):
        pass


def test_who_has_flock_waits_for_who_has_not(lock: Path) -> None:
    with locks.hold(lock, "file"), pytest.raises(KidpipeError, match="another build holds"), locks.hold(lock, "flock"):
        pass


def test_a_file_system_without_flock_is_named_and_auto_does_without(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", no_flock)
    with pytest.raises(KidpipeError, match="no flock") as caught, locks.hold(lock, "flock"):
        pass
    assert "store.lock = file" in caught.value.fix
    with locks.hold(lock, "auto"):
        with pytest.raises(KidpipeError, match="another build holds"), locks.hold(lock, "auto"):
            pass
        assert "process" in locks.holder(lock)
    with locks.hold(lock, "auto"):
        pass


def test_asking_who_holds_it_takes_nothing(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locks.hold(lock):
        pass
    monkeypatch.setattr(fcntl, "flock", lambda *_: pytest.fail("the lock was touched"))
    assert locks.holder(lock) == ""


def test_a_dead_holder_on_this_machine_is_seen_at_once(lock: Path) -> None:
    from kidcore.atomic import this_process

    owner = this_process()
    record = {"owner": {"host": owner.host, "pid": owner.pid, "started": owner.started + 1}, "token": "t", "beats": 9}
    lock.with_name("build.lock.held").write_text(json.dumps(record))
    assert locks.holder(lock) == ""
    started = time.monotonic()
    with locks.hold(lock, "file"):
        assert time.monotonic() - started < locks.SILENCE_S / 2


@pytest.mark.usefixtures("fast")
def test_a_silent_holder_elsewhere_is_dead_and_one_that_beats_is_not(lock: Path) -> None:
    held_by(lock, "other~1", 7)
    assert locks.holder(lock).startswith("process 7 on other, last heard of")
    is_over = threading.Event()

    def beat() -> None:
        beats = 1
        while not is_over.wait(0.05):
            beats += 1
            held_by(lock, "other~1", 7, beats)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(KidpipeError, match="process 7 on other"), locks.hold(lock, "file"):
            pass
    finally:
        is_over.set()
        heart.join()
    with locks.hold(lock, "file"):
        assert str(os.getpid()) in locks.holder(lock)
    assert not lock.with_name("build.lock.held").exists()


@pytest.mark.usefixtures("fast")
def test_what_a_dead_holder_elsewhere_left_is_waited_for_once(lock: Path) -> None:
    held_by(lock, "other~1", 7)
    with locks.hold(lock, "flock"):
        assert not lock.with_name("build.lock.held").exists()


@pytest.mark.usefixtures("fast")
def test_a_holder_shows_signs_of_life(lock: Path) -> None:
    held = lock.with_name("build.lock.held")
    with locks.hold(lock, "file"):
        first = json.loads(held.read_text())["beats"]
        deadline = time.monotonic() + 30
        while locks._read(held) is None or json.loads(held.read_bytes() or b'{"beats": 0}')["beats"] <= first + 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.usefixtures("fast")
def test_a_torn_lock_file_holds_nobody_for_ever(lock: Path) -> None:
    lock.with_name("build.lock.held").write_text('{"owner": {"ho')
    with locks.hold(lock, "file"):
        pass


def test_a_torn_lock_file_that_is_gone_again_is_not_waited_for(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder was seen as it began, and ended before it was looked at again."""
    held = lock.with_name("build.lock.held")
    held.touch()
    monkeypatch.setattr(locks.time, "sleep", lambda _seconds: held.unlink())
    with locks.hold(lock, "file"):
        assert str(os.getpid()) in locks.holder(lock)


def take(lock: Path, kind: locks.LockKind, start: "multiprocessing.synchronize.Barrier", out: Path) -> None:
    start.wait(30)
    try:
        with locks.hold(lock, kind):
            with (out / "in").open("x"):
                time.sleep(0.3)
            (out / "in").unlink()
            (out / f"held-{os.getpid()}").touch()
    except KidpipeError:
        pass


@pytest.mark.parametrize("kind", ["flock", "file"])
def test_of_many_at_once_one_holds_it(lock: Path, tmp_path: Path, kind: locks.LockKind) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(8)
    processes = [context.Process(target=take, args=(lock, kind, start, tmp_path)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert list(tmp_path.glob("held-*"))


def test_a_file_that_is_not_the_dead_ones_stays_also_where_nothing_stands_in_it_yet(lock: Path) -> None:
    held = lock.with_name("build.lock.held")
    held.touch()
    dead = locks._mark(held)
    held.unlink()
    locks._take_away(held, dead)
    held.touch()
    os.utime(held, ns=(1, 1))
    locks._take_away(held, dead)
    assert held.exists()
    locks._take_away(held, locks._mark(held))
    assert list(lock.parent.glob("build.lock*")) == []


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("kind", ["flock", "file"])
def test_the_mark_of_a_holder_stays_while_it_beats_and_is_another_holders_no_more(lock: Path, kind: locks.LockKind) -> None:
    assert locks.mark(lock) == ""
    with locks.hold(lock, kind):
        first = locks.mark(lock)
        time.sleep(0.1)
        assert locks.mark(lock) == first != ""
    assert locks.mark(lock) == ""
    held_by(lock, "elsewhere", 1)
    assert locks.mark(lock) not in ("", first)


def test_a_full_disk_is_named_with_its_place(lock: Path) -> None:
    code = """
import sys
from pathlib import Path
from kidcore.errors import KidpipeError
from kidcore.locks import hold
folder = Path(sys.argv[1])
(folder / "all").write_text("x" * 4096)
for kind in ("auto", "file"):
    try:
        with hold(folder / "build.lock", kind):
            pass
    except KidpipeError as error:
        assert "disk is full" in error.what and error.where == str(folder), error
        assert not (folder / "build.lock.held").exists()
        print("said")
"""
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs -o size=4k none "$0" && exec "$@"']
    given = [*mount, str(lock.parent), sys.executable, "-c", code, str(lock.parent)]
    done = subprocess.run(given, capture_output=True, text=True, timeout=60)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.stdout == "said\nsaid\n", done.stderr
