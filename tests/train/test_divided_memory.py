"""What a process holds of a divided student: its part of the weights, gradients and moments, and never a whole optimiser state.

Measured as the C library counts it, in several real processes, over a life with everything that might gather the whole: start,
steps, a checkpoint, and going on from it.
"""

import ctypes
import gc
import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from kidcore.allocator import flat_memory
from kidcore.config.train_settings import TrainSettings
from tests.forks import start_ranks
from tests.train.small import EOS, VOCAB_SIZE, make_examples
from tests.train.together import config
from train.checkpoint import Checkpoints, RunProgress
from train.schedule import make_optimizer
from train.step import Runner, RunObjective
from train.student.placement import load_and_place
from train.student.ranks import Ranks, open_ranks

MIB = 1 << 20
SLACK = 0.65
"""Of the weights' bytes: layers that are gathered for a moment, activations, what libraries keep."""


def save(folder: Path, hidden: int, layers: int) -> int:
    """A student of many layers, none of them a large part of it, and its configuration alone beside; the bytes of its weights."""
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCAB_SIZE,
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            eos_token_id=EOS,
            bos_token_id=None,
            pad_token_id=None,
        )
    )
    model.save_pretrained(folder)
    model.config.save_pretrained(folder / "sketch")
    return sum(parameter.nbytes for parameter in model.parameters())


class _Figures(ctypes.Structure):
    """`struct mallinfo2` of the C library."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )


def allocated() -> int:
    """Bytes that this process has asked of the C library and not given back: all tensors on the CPU are among them.

    Not the resident set, in which mapped files and what the kernel took away and brought back count too.
    """
    figures = _LIBRARY.mallinfo2()
    return int(figures.uordblks + figures.hblkhd)


_LIBRARY = ctypes.CDLL(None)
_LIBRARY.mallinfo2.restype = _Figures


@contextmanager
def peak() -> Iterator[list[int]]:
    """A list, whose one number is at the end how many bytes more than at the beginning there were at most, seen every 2 ms."""
    before, found, is_over = allocated(), [0], threading.Event()

    def look() -> None:
        found[0] = max(found[0], allocated() - before)

    def watch() -> None:
        while not is_over.wait(0.002):
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        is_over.set()
        watcher.join()
        look()


def live(student: Path, folder: Path, settings: TrainSettings, ranks: Ranks) -> int:
    """A step and a checkpoint, and a step from that checkpoint on; the peak."""
    # All but the first process have no weights to load.
    origin = student if ranks.is_first or settings.parallel == "ddp" else student / "sketch"
    examples = make_examples(np.random.default_rng(0), 2, 1, 1)
    gc.collect()
    with peak() as found:
        for first in (0, 1):
            placed = load_and_place(origin, settings, ranks)
            assert (placed.sharded is not None) == (settings.parallel == "fsdp")
            optimizer = make_optimizer(placed.model, settings)
            runner = Runner(placed.model, ranks.device, placed.layout, 64, None, ranks, placed.sharded)
            checkpoints = Checkpoints(folder)
            progress = checkpoints.load(placed.model, optimizer, ranks.device)
            assert (progress.step if progress else 0) == first
            runner.accumulate(examples, RunObjective.of(settings))
            optimizer.step()
            if not first:
                checkpoints.save(RunProgress(1, 0, math.inf, 0, 0.0), placed.model, optimizer, ranks)
                ranks.wait()
            del placed, optimizer, runner
            gc.collect()
    return found[0]


def measure(folder: Path) -> None:
    """What each process does: the same life with a student of two such layers first, so that libraries have what they keep.

    That depends on the processor and on the sizes of the matrices.
    """
    with open_ranks("cpu") as ranks, flat_memory():
        divided = config(parallel="fsdp", dtype="float32")
        live(folder / "small", folder / "warm", divided, ranks)
        found = {"divided": live(folder / "large", folder / "divided", divided, ranks)}
        if ranks.world_size == 2:
            found["whole"] = live(folder / "large", folder / "whole", config(parallel="ddp", dtype="float32"), ranks)
        (folder / f"{ranks.rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_no_process_holds_the_whole_optimiser_state(tmp_path: Path, processes: int) -> None:
    save(tmp_path / "small", 192, 2)
    weights = save(tmp_path / "large", 192, 16)
    with start_ranks(processes, measure, tmp_path) as child:
        assert child.wait() == 0, child.err
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(processes)]
    shown = f"{weights / MIB:.1f} MiB of weights, peaks {[{k: f'{v / MIB:.1f} MiB' for k, v in one.items()} for one in found]}"
    own = 4 * weights / processes
    """Weights, gradients and two moments."""
    with_whole_state = 2 * weights / processes + 2 * weights
    for one in found:
        assert one["divided"] < own + SLACK * weights < with_whole_state, shown
    if processes == 2:
        assert all(one["whole"] > with_whole_state for one in found), shown
