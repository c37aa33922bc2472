"""Every command of the README is run, with small stand-ins for its models and data."""

import os
import re
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.kidpipe.commands.conftest import cli  # noqa: F401
from tests.kidpipe.commands.running import Cli
from tests.kidpipe.commands.trials import launch

ROOT = Path(__file__).parents[1]


def make_shop(folder: Path) -> None:
    """The files that the README calls a user's own."""
    with closing(sqlite3.connect(folder / "shop.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE sale AS SELECT 1 AS price")
    rows = [f"over {n}?,SELECT count(*) FROM sale WHERE price > {n}" for n in range(20)]
    (folder / "q.csv").write_text("\n".join(["question,sql", *rows]) + "\n", encoding="utf-8")


def commands(program: str) -> list[list[str]]:
    """The commands of the README's bash blocks that start with `program`, as argument lists."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(program + " ")]


@pytest.mark.slow
def test_every_kidpipe_command_of_the_readme_works(
    cli: Cli,  # noqa: F811
    world: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kidpipe.study.runs._launch", launch)
    stand_ins = {"spider": str(world), "Qwen/Qwen2.5-Coder-7B": str(tiny_model), "Qwen/Qwen2.5-Coder-0.5B": str(tiny_model)}
    small = {"engine.backend": "transformers", "train.max_steps": 2, "eval.limit": 3, "eval.max_new_tokens": 4, "score.top_k": 8}
    names = {arguments[0] for arguments in commands("kidpipe")}
    assert {"init", "build-imperfect", "train", "eval", "plan", "status", "inspect", "query", "config", "verify", "gc"} <= names
    make_shop(Path.cwd())
    for arguments in commands("kidpipe"):
        given = [stand_ins.get(argument, argument) for argument in arguments]
        cli.settings.clear()
        cli.settings.update({} if arguments[0] == "init" else small)
        done = cli(*given)
        assert done.code == 0, (given, done.err)
        assert done.out


@pytest.mark.engine(seconds=20)
def test_every_torchrun_command_of_the_readme_works(cli: Cli) -> None:  # noqa: F811
    cli.settings.update({"train.max_steps": 2, "train.batch_size": 8})
    assert cli("build-imperfect").code == 0
    for arguments in commands("torchrun"):
        assert arguments[:2] == ["--nproc-per-node", "8"]
        given = ["--nproc-per-node", "2", *arguments[2:]]
        settings = [text for name, value in cli.settings.items() for text in ("--set", f"{name}={value}")]
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", *given, *settings, "--set", "engine.device=cpu"],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("2 steps") == 1


def test_the_make_targets_of_the_readme_exist_and_ci_runs_them() -> None:
    targets = {arguments[0] for arguments in commands("make")}
    assert targets == {"demo", "test", "test-fast", "check"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make check" in ci
    assert "make test" in ci
