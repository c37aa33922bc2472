"""Closed streams, narrow encodings, full disks and missing rights: a message, or nothing at all, but no traceback."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kidpipe import own_packages
from kidpipe.surroundings import prepare_streams, refusal

KIDPIPE = f"{sys.executable} -m kidpipe"


def shell(folder: Path, command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("KIDPIPE_")}
    env |= {"PYTHONPATH": str(own_packages.HOME)} | environ
    return subprocess.run(["/bin/sh", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_a_stream_that_holds_ascii_only_takes_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    print("é中😀")
    assert raw.getvalue() == b"\\xe9\\u4e2d\\U0001f600\n"


def test_bytes_that_are_no_text_come_in_as_a_line_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\ncaf\xe9\nb\n"), encoding="utf-8"))
    prepare_streams()
    assert [input() for _ in range(3)] == ["a", "caf\udce9", "b"]


def test_closed_streams_are_no_error(tmp_path: Path) -> None:
    done = shell(tmp_path, f"{KIDPIPE} status <&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = shell(tmp_path, f"{KIDPIPE} status --json <&-")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["manifest"] is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_is_said_when_the_last_line_is_written(tmp_path: Path) -> None:
    done = shell(tmp_path, f"{KIDPIPE} status > /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no space left on device\n")
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr


def test_json_stays_json_in_a_narrow_encoding(tmp_path: Path) -> None:
    done = shell(tmp_path, f"{KIDPIPE} status --json --set data.path=中😀", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == "中😀"


def test_a_working_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    # Not by -m, which looks at the working folder before anything of ours runs.
    program = f"{sys.executable} -c 'from kidpipe.cli import main; main()'"
    done = shell(tmp_path / "gone", f"rmdir ../gone && {program} status")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the working folder is not there any more\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ["no space left on device", "free some space"]),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), ["permission denied", "where: a/b", "for the user"]),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", b"a"), ["not a directory", "check that path"]),
        (OSError(errno.EXDEV, "Cross-device link", "a", None, "b"), ["where: a -> b"]),
        (OSError("odd"), ["odd"]),
    ],
)
def test_what_the_system_refuses_is_put_in_words(error: OSError, said: list[str]) -> None:
    assert all(part in str(refusal(error)) for part in said)
