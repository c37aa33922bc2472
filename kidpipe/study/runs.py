"""Runs that are to be done in, so many at a time each in its own process, their results out; finished ones are read."""

import json
import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kidcore.config import processes
from kidcore.interrupt import StopRequest
from kidcore.progress import Pace
from kidcore.store.store import Store
from kidpipe import own_packages
from kidpipe.commands.session import show_seconds
from kidpipe.study.grid import Trial
from kidpipe.study.trial import CELL, RESULT

_Process = subprocess.Popen[bytes]
_POLL_S = 0.05
LOG = "log.txt"


@dataclass
class Run:
    """A cell, where its files lie, and what came of it."""

    cell: Trial
    folder: Path
    request: dict[str, Any]
    """What the process is told; empty where the build failed and there is nothing to train on."""
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return not self.error and not self.result


def run_all(runs: Sequence[Run], jobs: int, say: Callable[[str], None]) -> None:
    """Fill in `result` or `error` of every run, `jobs` at a time; `say` gets a line as each ends, and at half minutes what the
    runs under way said last in theirs."""
    for run in runs:
        run.result = Store(run.folder).read_json(RESULT) or {}
    pending = deque(run for run in runs if run.is_open)
    done = reused = len(runs) - len(pending)
    if reused:
        say(f"{reused} of {len(runs)} runs were finished before")
    began = time.perf_counter()
    running: dict[_Process, Run] = {}
    pace, heard = Pace(len(runs)), dict[Path, str]()
    is_told = False
    try:
        with StopRequest() as stop:
            stop.is_patient = True
            while running or (pending and not stop.is_made):
                while len(running) < jobs and not stop.is_made and (next_run := _next(pending, running.values())):
                    running[_start(next_run, jobs)] = next_run
                if stop.is_made and not is_told:
                    is_told = True
                    _ask_to_stop(running, say)
                if pace.is_due():
                    _relay(running.values(), heard, say)
                for process in [process for process in running if process.poll() is not None]:
                    run = running.pop(process)
                    _release(process)
                    if is_told and process.returncode:
                        continue
                    _finish(run, process.returncode)
                    done += 1
                    left = (time.perf_counter() - began) / (done - reused) * (len(runs) - done)
                    say(f"{done}/{len(runs)}  {_outcome(run)}; about {show_seconds(left)} left")
                time.sleep(_POLL_S)
        if stop.is_made:
            raise KeyboardInterrupt
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()
            _release(process)


def _ask_to_stop(running: Iterable[_Process], say: Callable[[str], None]) -> None:
    """Let runs in training end their step and save it; those that are at something else, which saves nothing, end at once."""
    say("stopping: runs in training end their step and save it; a second Ctrl-C does not wait for that")
    for process in running:
        process.terminate()


def _next(pending: deque[Run], running: Iterable[Run]) -> Run | None:
    """The first whose student nobody is training: rows that differ in how they are judged share it, and it is trained once."""
    busy = {run.request["run"] for run in running}
    found = next((run for run in pending if run.request["run"] not in busy), None)
    if found is not None:
        pending.remove(found)
    return found


def _relay(runs: Iterable[Run], heard: dict[Path, str], say: Callable[[str], None]) -> None:
    """Say the last line of each run's log, unless it was `heard` before."""
    for run in runs:
        if (line := _last_line(run)) not in ("", heard.get(run.folder)):
            heard[run.folder] = line
            say(f"{run.cell.describe()}: {line}")


def _start(run: Run, jobs: int) -> _Process:
    run.folder.mkdir(parents=True, exist_ok=True)
    Store(run.folder).write_json(CELL, run.request)
    # Cores are shared out, or the threads of one run would wait for those of another.
    threads = {"OMP_NUM_THREADS": str(max(1, processes.usable_cores() // jobs)), "GOMP_SPINCOUNT": "500"}
    return _launch(run.folder, threads | dict(os.environ))


def _launch(folder: Path, environment: dict[str, str]) -> _Process:
    # It drops what is there when its turn comes: a run of this name may be under way for another comparison.
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [*own_packages.child_command("kidpipe.study.trial"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            # In a session of its own it does not hear Ctrl-C: a second signal, beside ours, would not let it save its step.
            start_new_session=True,
        )


def _release(process: _Process) -> None:
    assert process.stdin is not None
    process.stdin.close()


def _finish(run: Run, code: int) -> None:
    if code == 0:
        run.result = json.loads((run.folder / RESULT).read_text(encoding="utf-8"))
        return
    said = _last_line(run).removeprefix("error: ")
    run.error = f"killed by signal {-code}" if code < 0 else said or f"ended with code {code}"


def _last_line(run: Run) -> str:
    lines = (run.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _outcome(run: Run) -> str:
    if run.error:
        return f"{run.cell.describe()}: failed, {run.error}"
    return (
        f"{run.cell.describe()}: ex_bag {run.result['ex_bag']:.1%} after {show_seconds(run.result['train_seconds'])} of training"
    )
