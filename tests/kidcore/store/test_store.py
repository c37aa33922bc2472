"""Commits are whole or absent, damage is noticed, one driver holds the store."""

import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from kidcore import atomic
from kidcore.errors import KidpipeError
from kidcore.store.manifest import read_manifest
from kidcore.store.store import DamagedShard, Shard, Store

TABLE = pa.table({"x": [1, 2, 3]})
K1, K2 = "1" * 32, "2" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def test_a_commit_can_be_scanned_read_and_counted(store: Store) -> None:
    shard = store.commit("mask", K1, TABLE, {"in": 3, "out": 3})
    assert store.scan("mask") == {K1: shard}
    assert store.read(shard).equals(TABLE)
    assert store.counts(shard) == {"in": 3, "out": 3}
    assert store.is_as_written(shard)
    assert store.scan("predict") == {}


def test_a_shard_that_the_system_does_not_open_is_not_taken_for_damaged(store: Store) -> None:
    """A build makes damaged shards anew: at a teacher's cost, because too many files were open."""
    shard = store.commit("mask", K1, TABLE, {"in": 3})
    store.read(shard)  # what reading loads is loaded
    looks: tuple[Callable[[Shard], object], ...] = (store.read, store.counts, store.provenance)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        for look in looks:
            with pytest.raises(KidpipeError, match=r"a shard can't be opened: .*Too many open files") as told:
                look(shard)
            assert not isinstance(told.value, DamagedShard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert store.read(shard).equals(TABLE)
    store.path(shard).unlink()
    for look in (*looks, store.size):
        with pytest.raises(DamagedShard):
            look(shard)


def test_equal_rows_give_equal_bytes(store: Store) -> None:
    first, second = (store.commit("mask", key, TABLE, {"in": 3}) for key in (K1, K2))
    assert first.digest == second.digest


@pytest.mark.parametrize("name", ["x.parquet", "README.md", "k.x.d.parquet", "a.1.b.parquet", f"{K1}.3.{K2}.parquet.broken"])
def test_other_files_are_no_shards(store: Store, name: str) -> None:
    shard = store.commit("mask", K1, TABLE, {})
    (store.root / "mask" / name).write_text("x")
    assert store.scan("mask") == {K1: shard}


def test_what_dead_writers_left_goes_and_what_others_write_stays(store: Store) -> None:
    folder = store.root / "mask"
    folder.mkdir(parents=True)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from kidcore.atomic import *; print(temporary_beside(Path(sys.argv[1])))",
            folder / "x",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    of_dead, of_living = Path(done.stdout.strip()), atomic.temporary_beside(folder / "y")
    owner = atomic.this_process()
    of_number_reused = folder / f".tmp-{owner.host}+{owner.pid}+{owner.started + 1}+00000000-z"
    elsewhere, elsewhere_long_ago = (folder / f".tmp-other~1+1+1+0000000{n}-z" for n in range(2))
    unnamed = folder / ".tmp-1-abc"
    for path in (of_dead, of_living, elsewhere, elsewhere_long_ago, unnamed):
        path.write_text("x")
    of_number_reused.mkdir()
    (of_number_reused / "tokenizer.json").write_text("{")
    os.utime(elsewhere_long_ago, (0, 0))
    store.remove_temporaries()
    assert set(folder.iterdir()) == {of_living, elsewhere, unnamed}


def test_two_results_of_one_key_are_read_alike_by_all(store: Store) -> None:
    (store.root / "mask").mkdir(parents=True)
    for digest in ("b" * 32, "a" * 32):
        (store.root / "mask" / f"{K1}.3.{digest}.parquet").write_text("")
    assert store.scan("mask")[K1].digest == "a" * 32


@pytest.mark.parametrize("keep", [0, 10, -10])
def test_a_truncated_shard_is_noticed(store: Store, keep: int) -> None:
    shard = store.commit("mask", K1, TABLE, {})
    path = store.path(shard)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedShard, match="damaged"):
        store.read(shard)
    store.set_aside(shard)
    assert store.scan("mask") == {}


def test_another_number_of_rows_is_noticed(store: Store) -> None:
    shard = store.commit("mask", K1, TABLE, {})
    renamed = Shard("mask", K1, 4, shard.digest)
    store.path(shard).rename(store.path(renamed))
    with pytest.raises(DamagedShard, match="3 rows instead of 4"):
        store.read(renamed)


def test_a_damaged_shard_comes_whole_out_of_another_process() -> None:
    damage = DamagedShard(Shard("mask", K1, 3, K2), "cut short")
    copy = pickle.loads(pickle.dumps(damage))
    assert (copy.shard, copy.what, copy.where, copy.fix) == (damage.shard, damage.what, damage.where, damage.fix)


def hold(root: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with Store(root).lock():
        ready.set()
        time.sleep(60)


def test_a_second_driver_is_told_of_the_first_and_death_frees_the_lock(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(store.root, ready))
    process.start()
    try:
        assert ready.wait(30)
        with pytest.raises(KidpipeError, match=f"process {process.pid} on"), store.lock():
            pass
        assert f"process {process.pid}" in store.lock_holder()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.join(30)
    with store.lock():
        pass
    assert store.lock_holder() == ""


def test_a_manifest_of_a_newer_kidpipe_is_refused(store: Store) -> None:
    store.write_json("manifest.json", {"schema_version": 99})
    with pytest.raises(KidpipeError, match="schema version 99"):
        read_manifest(store)


def test_an_unreadable_manifest_is_said(store: Store) -> None:
    store.write_json("manifest.json", {})
    (store.root / "manifest.json").write_text("{")
    with pytest.raises(KidpipeError, match="not readable"):
        read_manifest(store)


def test_a_full_disk_is_a_message_and_loses_nothing(tmp_path: Path) -> None:
    """On a file system of 64 KiB, in a mount namespace of its own."""
    code = """
import sys, pyarrow as pa
from pathlib import Path
from kidcore.errors import KidpipeError
from kidcore.store.store import Store
store = Store(Path(sys.argv[1]))
first = store.commit("mask", "1" * 32, pa.table({"x": [1]}), {})
try:
    store.commit("mask", "2" * 32, pa.table({"x": pa.array([str(i * 7919 % 100003) for i in range(200000)])}), {})
except KidpipeError as error:
    assert "disk is full" in error.what, error
    assert store.read(first).num_rows == 1
    assert [p.name for p in (store.root / "mask").iterdir()] == [first.file.split("/")[1]]
    print("said")
"""
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"']
    done = subprocess.run(
        [*mount, str(tmp_path), sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.stdout == "said\n", done.stderr
