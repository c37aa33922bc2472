"""A named job in; what one process of several does for it in the tests of train.student.ranks."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kidcore.config.train_settings import TrainSettings
from kidcore.method.methods import METHODS
from tests.forks import Fork, start, start_ranks
from tests.train.small import EOS, make_examples, make_student, part_files
from tests.train.test_methods import online_setup
from train import memory
from train.data.dataset import Source
from train.memory import StudentShape, step_bytes
from train.runlog import RunLog
from train.step import Runner, RunObjective
from train.student.placement import place
from train.student.ranks import Ranks, open_ranks
from train.student.sharding import whole
from train.trainer import run

# Three packs for two processes, one pack (a process has none), and one that each example overflows.
PACK_TOKENS = (110, 10_000, 64)


def config(**changes: object) -> TrainSettings:
    values: dict[str, object] = {"method": "kid", "batch_size": 8, "epochs": 2, "holdout": 0.1, "learning_rate": 1e-2}
    return TrainSettings.model_validate(values | changes)


def source_of(folder: Path) -> Source:
    """The Source that `write_build(folder, parts=4)` returned."""
    return Source([part_files(folder, part) for part in range(4)], EOS, "digest-0")


def gradients(ranks: Ranks, changes: dict[str, object]) -> list[tuple[float, float, int, dict[str, torch.Tensor]]]:
    """Losses, packs and the gradient of every parameter after one step, by pack budget."""
    found = []
    examples = make_examples(np.random.default_rng(3), 3, 3, 2)
    for pack_tokens in PACK_TOKENS:
        settings = config(**changes)
        # Where it trains is decided as the trainer decides it.
        placed = place(make_student(tied=bool(pack_tokens % 4)), settings, ranks)
        model = placed.model
        runner = Runner(model, ranks.device, placed.layout, pack_tokens, placed.autocast_dtype, ranks, placed.sharded)
        assert (placed.sharded is not None) == (ranks.world_size > 1 and settings.parallel == "fsdp")
        assert placed.copy is None
        figures = runner.accumulate(examples, RunObjective.of(settings))
        grads = {name: whole(p.grad).clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((figures.mle, figures.kd, figures.packs, grads))
    return found


def launch(processes: int, job: str, folder: Path, out: Path, **changes: object) -> Fork:
    """Start `job` in so many processes, under torchrun's agent where there are several."""
    if processes == 1:
        return start(work, job, folder, out, changes)
    return start_ranks(processes, work, job, folder, out, changes)


def interrupt(processes: int, folder: Path, out: Path, lines: int, **changes: object) -> None:
    """Train until the log has so many lines. Then one process alone is killed, and torchrun is asked to end several."""
    if processes == 1:
        with start(train_and_die, folder, out, changes, lines, 0) as child:
            assert child.wait() == -signal.SIGKILL, child.err
    else:
        with start_ranks(processes, train_slowly, folder, out, changes, lines) as child:
            while child.poll() is None and num_lines(out / "log.jsonl") < lines:
                time.sleep(0.005)
            child.terminate()
            child.wait()
    assert not (out / "result.json").exists(), "the run was over before it could be interrupted"


def num_lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def train_and_die(folder: Path, out: Path, changes: dict[str, object], lines: int, calls: int) -> None:
    """`kill -9` of this process, so many calls of functions after its log got so many lines.

    Counted in calls rather than seconds, so that a busy machine neither finishes first nor dies elsewhere.
    """
    left = calls

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    after_line(lines, lambda: sys.setprofile(count))
    work("train", folder, out, changes)


def train_slowly(folder: Path, out: Path, changes: dict[str, object], lines: int) -> None:
    """From so many lines on, half a second for each: time enough to be interrupted."""
    after_line(lines, lambda: time.sleep(0.5))
    work("train", folder, out, changes)


def after_line(lines: int, act: Callable[[], None]) -> None:
    """Call `act` after each line of a run's log from the one of this number on."""
    write = RunLog.write

    def write_and_act(log: RunLog, figures: Mapping[str, Any]) -> None:
        write(log, figures)
        if num_lines(log._path) >= lines:
            act()

    RunLog.write = write_and_act  # type: ignore[method-assign]


def finish(processes: int, job: str, folder: Path, out: Path, **changes: object) -> str:
    """Run to the end; standard error."""
    with launch(processes, job, folder, out, **changes) as child:
        assert child.wait() == 0, child.err
        return child.err


def see_memory_for(pack_tokens: int | str, settings: TrainSettings, student: Path) -> None:
    """Let this process have room for packs of so many tokens and no more, as on a smaller machine."""
    shape = StudentShape.of(student)
    assert shape is not None
    needed = step_bytes(shape, settings.model_copy(update={"pack_tokens": pack_tokens}), torch.device("cpu"))
    memory.free_bytes = lambda _: int(needed / memory._SHARE) + 1


def work(job: str, folder: Path, out: Path, changes: dict[str, object]) -> None:
    """What each of the processes does."""
    with open_ranks("cpu") as ranks:
        if job in ("train", "unlike"):
            settings = config(**changes)
            if job == "unlike":
                see_memory_for(settings.pack_tokens if ranks.is_first else 512, settings, folder / "student")
            online = online_setup(folder / "student") if METHODS[settings.method].is_online else None
            run(settings, source_of(folder), folder / "student", out, ranks=ranks, online=online)
        else:
            found = gradients(ranks, changes)
            if ranks.is_first:
                torch.save(found, out)
