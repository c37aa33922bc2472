"""Functions in, processes that run them out: forks of one server a session that has everything imported.

A process of its own costs 5 CPU seconds where it imports torch, and a tenth of one here. Only what the start of a process
itself is about (what a program imports, what it prints at exit) needs a real one.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any

PATIENCE_S = 300


def context() -> ForkServerContext:
    """The server's context. It starts with the first process, once a pytest process."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.preload"])
    return server


@dataclass(eq=False)
class Fork:
    """A started process, its standard output and error in files; it is killed when it is left, with what it started."""

    process: ForkServerProcess
    folder: Path
    _joins: threading.Lock = field(default_factory=threading.Lock)
    """The exit code can be read once: of two threads that wait, the second would be told 255."""

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self.process.exitcode

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """The exit code, once it has ended."""
        self._join(seconds)
        code = self.process.exitcode
        if code is None:
            # Where each of its threads stands is all that tells why.
            os.kill(self.pid, signal.SIGUSR1)
            time.sleep(1)
        assert code is not None, f"still running after {seconds} s: {self.err}"
        return code

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self.process.kill()
        self._join()

    def _join(self, seconds: float | None = None) -> None:
        with self._joins:
            self.process.join(seconds)

    def terminate(self) -> None:
        self.process.terminate()

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text(errors="replace")

    def __enter__(self) -> "Fork":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.poll() is None:
            self.kill()
            # What it started itself, and had no time to end.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


def start(
    function: Callable[..., None], *arguments: Any, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> Fork:
    """Run `function(*arguments)`, a module's own, in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="fork-"))
    for name in ("out", "err"):
        (folder / name).touch()
    given = dict(os.environ if environment is None else environment)
    process = context().Process(
        target=_run,
        args=(folder, cwd or Path.cwd(), given, function, arguments),
    )
    process.start()
    fork = Fork(process, folder)
    weakref.finalize(fork, shutil.rmtree, folder, ignore_errors=True)
    return fork


def start_ranks(
    count: int,
    function: Callable[..., None],
    *arguments: Any,
    cwd: Path | None = None,
    environments: Mapping[int, Mapping[str, str]] | None = None,
) -> Fork:
    """Run it in `count` processes that torchrun's own agent starts, watches and ends; `environments` adds to that of a rank."""
    return start(_torchrun, count, {} if environments is None else dict(environments), function, arguments, cwd=cwd)


def command(*words: str) -> None:
    """The command line, as `kidpipe WORD...` in a shell."""
    from kidpipe.cli import main

    sys.argv = ["kidpipe", *words]
    main()


def _run(folder: Path, cwd: Path, environment: dict[str, str], function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    for name, descriptor in (("out", 1), ("err", 2)):
        opened = os.open(folder / name, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    assert "tests.preload" in sys.modules, "the server goes on without what it cannot import: python -m tests.preload tells"
    # A group of its own, so that what it starts can be killed with it.
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.register(signal.SIGUSR1)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    _work(function, arguments)


def _work(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    function(*arguments)


def _torchrun(count: int, environments: dict[int, Mapping[str, str]], function: Callable[..., None], arguments: Any) -> None:
    """`torchrun --standalone --nproc-per-node COUNT`, but for workers that are forks of this process."""
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    given = parse_args(["--standalone", "--nproc-per-node", str(count), "function"])
    given.rdzv_backend, given.rdzv_endpoint, given.rdzv_id = "c10d", "localhost:0", str(uuid.uuid4())
    config, *_ = config_from_args(given)
    config.start_method = "fork"
    try:
        elastic_launch(config, _rank)(environments, function, arguments)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _rank(environments: dict[int, Mapping[str, str]], function: Callable[..., None], arguments: Any) -> None:
    # The agent's handlers came along with the fork; a process that torchrun starts has none.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(environments.get(int(os.environ["RANK"]), {}))
    _work(function, arguments)
