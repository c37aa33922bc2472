"""All or nothing, for files and folders, and a message where the disk says no."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kidcore import atomic
from kidcore.errors import KidpipeError


def test_a_file_appears_whole(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "new" / "a.txt", "one")
    atomic.write_text(tmp_path / "new" / "a.txt", "two")
    assert (tmp_path / "new" / "a.txt").read_text() == "two"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = atomic.write_text(tmp_path / "a.txt", "one")
    with pytest.raises(LookupError), atomic.replacing(target) as temporary:
        temporary.write_text(["tw"][temporary.write_text("tw")])
    assert target.read_text() == "one"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with atomic.replacing(tmp_path / "tokenizer") as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "deep" / "x").write_text("x")
        assert not (tmp_path / "tokenizer").exists()
    assert (tmp_path / "tokenizer" / "deep" / "x").read_text() == "x"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with atomic.replacing(tmp_path / "a") as one, atomic.replacing(tmp_path / "a") as two:
        one.write_text("1")
        two.write_text("2")
        assert one != two
    assert (tmp_path / "a").read_text() == "1"


def test_a_process_knows_itself_and_that_others_are_gone() -> None:
    assert atomic.this_process().is_alive() is True
    done = subprocess.run(
        [sys.executable, "-c", "from kidcore.atomic import *; o = this_process(); print(o.host, o.pid, o.started)"],
        capture_output=True,
        text=True,
        check=True,
    )
    host, pid, started = done.stdout.split()
    assert atomic.Owner(host, int(pid), int(started)).is_alive() is False
    assert atomic.Owner("elsewhere~0", 1, 1).is_alive() is None


def test_a_place_that_cannot_be_written_is_a_message(tmp_path: Path) -> None:
    """On a read-only file system, in a mount namespace of its own: root may write anywhere else."""
    code = """
import sys
from pathlib import Path
from kidcore.atomic import require_writable, write_text
from kidcore.errors import KidpipeError
from kidcore.locks import hold
acts = [lambda p: write_text(p / "x" / "a", "x"), lambda p: hold(p / "build.lock").__enter__()]
for act in [*acts, require_writable, lambda p: require_writable(p / "eval" / "of-a-run")]:
    try:
        act(Path(sys.argv[1]))
    except KidpipeError as error:
        assert "nothing can be written" in error.what, error
        print("said")
"""
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs -o ro none "$0" && exec "$@"']
    done = subprocess.run(
        [*mount, str(tmp_path), sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.stdout == "said\n" * 4, done.stderr


def test_asking_whether_a_folder_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    atomic.require_writable(tmp_path)
    atomic.require_writable(tmp_path / "eval" / "of-a-run")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_from_other_faults(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="disk is full"), atomic.replacing(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    with pytest.raises(IsADirectoryError), atomic.replacing(tmp_path / "a"):
        raise IsADirectoryError(21, "Is a directory")


@pytest.mark.parametrize("text", ["Łódź 数据 \U0001f642", "half \udcff of it", "\0\x1f\u2028", 'a "quote" \\'])
def test_any_text_comes_back_from_json(tmp_path: Path, text: str) -> None:
    document = {"z": text, text: [1, 2.5, None, True]}
    path = atomic.write_json(tmp_path / "a.json", document)
    assert json.loads(path.read_text(encoding="utf-8")) == document
    assert path.read_bytes() == atomic.write_json(tmp_path / "b.json", dict(reversed(document.items()))).read_bytes()
    assert path.read_text(encoding="utf-8").endswith("}\n")
