"""Conventions of the command line, each as a person meets it: a whole process in a folder of its own."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from kidcore.version import kidpipe_version
from kidpipe import own_packages

KIDPIPE = [sys.executable, "-m", "kidpipe"]
SHADOWS = ("train.py", "eval.py", "pipeline/__init__.py")


def run(folder: Path, *words: str, command: list[str] | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("KIDPIPE_")}
    env |= {"PYTHONPATH": str(own_packages.HOME)} | environ
    command = command or KIDPIPE
    return subprocess.run([*command, *words], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)


def test_alone_it_shows_its_help_and_that_is_no_error(tmp_path: Path) -> None:
    alone, asked = run(tmp_path), run(tmp_path, "--help")
    assert (alone.returncode, alone.stderr) == (0, "")
    assert "build-imperfect" in alone.stdout
    assert alone.stdout.split() == asked.stdout.split()
    assert max(map(len, alone.stdout.splitlines())) <= 80


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout == f"kidpipe {kidpipe_version()}\n"


def test_completion_names_commands(tmp_path: Path) -> None:
    asked = {"_KIDPIPE_COMPLETE": "complete_bash", "COMP_WORDS": "kidpipe pl", "COMP_CWORD": "1"}
    program = [sys.executable, "-c", "from kidpipe.cli import main; import sys; sys.argv[0] = 'kidpipe'; main()"]
    assert run(tmp_path, command=program, **asked).stdout.split() == ["plan"]


@pytest.mark.parametrize("command", ["plan", "build-imperfect"])
def test_a_mistyped_stage_gets_the_nearest_name(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, command, "--until", "predikt")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no such stage: predikt")
    assert "did you mean predict?" in done.stderr
    assert "Traceback" not in done.stderr


def test_plan_takes_every_option_of_a_build(tmp_path: Path) -> None:
    options = [
        {word for word in run(tmp_path, command, "--help").stdout.split() if word.startswith("--")}
        for command in ("plan", "build-imperfect")
    ]
    assert options[1] <= options[0]


@pytest.mark.parametrize("words", [("init",), ("config",), ("status",), ("gc",), ("verify",)])
def test_json_is_one_document_on_stdout(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(tmp_path, *words, "--json", *(["--set", "eval.workers=2"] if words != ("init",) else []))
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    """A folder in which a person keeps modules of the same names as ours."""
    for name in SHADOWS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('not kidpipe')\n")
    return tmp_path


@pytest.mark.parametrize("python_path", ["", "."], ids=["module", "working folder on the path"])
def test_a_persons_own_modules_are_left_alone(shadowed: Path, python_path: str) -> None:
    path = os.pathsep.join(filter(None, [python_path, str(own_packages.HOME)]))
    done = run(shadowed, "plan", "--data", "none", PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no such folder") or "none" in done.stderr
    assert "not kidpipe" not in done.stderr
    files = "import kidpipe.cli, train, eval, pipeline; print(train.__file__, eval.__file__, pipeline.__file__)"
    done = run(shadowed, command=[sys.executable, "-c", files], PYTHONPATH=path)
    assert [Path(file).parents[1] for file in done.stdout.split()] == [own_packages.HOME] * 3, done.stderr


@pytest.mark.engine  # the interface loads torch and all
def test_the_python_interface_is_ours_too(shadowed: Path) -> None:
    """As in a notebook beside such files: the working folder is first on the path."""
    done = run(shadowed, command=[sys.executable, "-c", "import kidpipe; print(kidpipe.Project.__module__)"])
    assert (done.stdout, done.stderr) == ("kidpipe.api\n", "")


@pytest.mark.slow
def test_processes_that_we_start_are_safe_too(shadowed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shadowed)
    command = own_packages.child_command("kidpipe.study.trial")
    # Its standard input stays open, or it would end itself.
    with subprocess.Popen([*command, "none"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.read()
    assert "not kidpipe" not in said
    assert "run_trial" in said  # it came to its own work: there is no such folder


def on_terminal(folder: Path, columns: int, *words: str, **environ: str) -> str:
    """What the command prints on a terminal so wide."""
    ours, theirs = pty.openpty()
    env = dict(os.environ) | {"PYTHONPATH": str(own_packages.HOME), "COLUMNS": str(columns), "TERM": "xterm-256color"} | environ
    process = subprocess.Popen([*KIDPIPE, *words], cwd=folder, env=env, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    text = b""
    try:
        while data := os.read(ours, 65536):
            text += data
    except OSError:
        pass  # the other end is closed: Linux says so with an error
    os.close(ours)
    assert process.wait() == 0, text
    return text.decode()


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("command", ["config", "status"])
def test_narrow_terminals_show_names_whole(tmp_path: Path, columns: int, command: str) -> None:
    lines = on_terminal(tmp_path, columns, command, NO_COLOR="1", TERM="dumb").splitlines()
    assert max(map(len, lines)) <= columns
    names = ("sandbox.gold_timeout_s", "train.gradient_checkpointing") if command == "config" else ("gold_score", "generate")
    assert all(any(name in line.split() for line in lines) for name in names)


def test_no_colour_where_none_is_wanted(tmp_path: Path) -> None:
    assert "\x1b[3" not in on_terminal(tmp_path, 80, "config", NO_COLOR="1")
    assert "\x1b" not in on_terminal(tmp_path, 80, "config", TERM="dumb")
