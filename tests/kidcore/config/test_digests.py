"""A large file is hashed once, however many processes ask, and again only when it changes."""

import multiprocessing
import os
from pathlib import Path

import pytest

from kidcore.config import digests
from kidcore.config.digests import FileDigests, hash_file


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A large file, written a while ago."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"w" * digests._LARGE_BYTES)
    os.utime(path, (1e9, 1e9))
    return path


def ask(memory: Path, path: Path, counted: Path) -> None:
    def count(path: Path) -> str:
        with counted.open("a") as log:
            log.write("x")
        return hash_file(path)

    digests.hash_file = count
    FileDigests(memory).digest(path)


def test_of_many_processes_the_first_hashes_and_the_others_wait(tmp_path: Path, weights: Path) -> None:
    context = multiprocessing.get_context("fork")
    counted = tmp_path / "counted"
    processes = [context.Process(target=ask, args=(tmp_path / "digests.json", weights, counted)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert counted.read_text() == "x"
    assert FileDigests(tmp_path / "digests.json").digest(weights) == hash_file(weights)


def test_small_files_are_kept_by_save_beside_what_others_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_text(file.name)
        os.utime(file, (1e9, 1e9))
    first, second = (FileDigests(tmp_path / "digests.json") for _ in files)
    first.digest(files[0])
    second.digest(files[1])
    second.know("checked this")
    first.save()
    second.save()
    monkeypatch.setattr(digests, "hash_file", lambda path: pytest.fail(f"{path} was hashed again"))
    again = FileDigests(tmp_path / "digests.json")
    assert [again.digest(file) for file in files] == [first.digest(files[0]), second.digest(files[1])]
    assert again.is_known("checked this")
    assert again.recall("nothing of the kind") is None


def test_a_changed_file_is_hashed_again_and_its_old_digest_forgotten(tmp_path: Path, weights: Path) -> None:
    memory = tmp_path / "digests.json"
    FileDigests(memory).digest(weights)
    weights.write_bytes(b"v" * digests._LARGE_BYTES)
    os.utime(weights, (1.1e9, 1.1e9))
    again = FileDigests(memory)
    assert again.digest(weights) == hash_file(weights)
    assert memory.read_text().count("model.safetensors") == 1


def test_a_file_written_just_now_may_change_within_the_clock_and_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("one")
    known = FileDigests(tmp_path / "digests.json")
    known.digest(path)
    known.save()
    status = path.stat()
    path.write_text("two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert FileDigests(tmp_path / "digests.json").digest(path) == hash_file(path)


@pytest.mark.parametrize("text", ["{", "[]", "\0\0"])
def test_a_damaged_memory_is_an_empty_one(tmp_path: Path, weights: Path, text: str) -> None:
    (tmp_path / "digests.json").write_text(text)
    assert FileDigests(tmp_path / "digests.json").digest(weights) == hash_file(weights)


def test_where_nothing_can_be_kept_digests_are_right_all_the_same(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "digests.json").mkdir()
    known = FileDigests(tmp_path / "digests.json")
    assert known.digest(weights) == hash_file(weights)
    known.save()
