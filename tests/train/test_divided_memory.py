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

from kidcore.config.config import TrainSettings
from tests.forks import start_ranks
from tests.train.small import EOS, VOCAB_SIZE, make_examples
from tests.train.together import config
from train.allocator import flat_memory
from train.checkpoint import Checkpoints, RunProgress
from train.schedule import make_optimizer
from train.step import Runner, RunObjective
from train.student.placement import load_and_place
from train.student.ranks import Ranks, open_ranks

MIB = 1 << 20
SLACK = 0.5
"""Of the weights' bytes: layers that are gathered for a moment, activations, what libraries keep."""


def save(folder: Path, hidden: int, layers: int) -> int:
    """A student of many layers, none of them a large part of it; its bytes."""
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
def peak(found: dict[str, int], name: str, before: int) -> Iterator[None]:
    """Put into `found[name]` how many bytes over `before` the process has at most until the end, looking every two ms."""
    is_over = threading.Event()

    def look() -> None:
        found[name] = max(found.get(name, 0), allocated() - before)

    def watch() -> None:
        while not is_over.wait(0.002):
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
        look()


def live(student: Path, folder: Path, settings: TrainSettings, ranks: Ranks) -> dict[str, int]:
    """Start, two steps and a checkpoint, and the same from that checkpoint; the peaks."""
    gc.collect()
    before = allocated()
    found: dict[str, int] = {}
    examples = make_examples(np.random.default_rng(0), 2, 1, 1)
    for first in (0, 2):
        with peak(found, "start", before):
            placed = load_and_place(student, settings, ranks)
        assert (placed.sharded is not None) == (settings.parallel == "fsdp")
        with peak(found, "life", before):
            optimizer = make_optimizer(placed.model, settings)
            runner = Runner(placed.model, ranks.device, placed.layout, 64, None, ranks, placed.sharded)
            checkpoints = Checkpoints(folder)
            progress = checkpoints.load(placed.model, optimizer, ranks.device)
            assert (progress.step if progress else 0) == first
            for _ in range(2):
                optimizer.zero_grad(set_to_none=True)
                runner.accumulate(examples, RunObjective.of(settings))
                optimizer.step()
            checkpoints.save(RunProgress(first + 2, 0, math.inf, 0, 0.0), placed.model, optimizer, ranks)
            ranks.wait()
        del placed, optimizer, runner
        gc.collect()
    return found


def measure(folder: Path) -> None:
    """What each process does: the same life with a small student first, so that libraries have what they keep."""
    with open_ranks("cpu") as ranks, flat_memory():
        divided, whole = (config(parallel=parallel, dtype="float32") for parallel in ("fsdp", "ddp"))
        live(folder / "small", folder / "warm", divided, ranks)
        found = {"divided": live(folder / "large", folder / "divided", divided, ranks)}
        if ranks.world_size == 2:
            found["whole"] = live(folder / "large", folder / "whole", whole, ranks)
        (folder / f"{ranks.rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_no_process_holds_the_whole_optimiser_state(tmp_path: Path, processes: int) -> None:
    save(tmp_path / "small", 32, 2)
    weights = save(tmp_path / "large", 256, 9)
    with start_ranks(processes, measure, tmp_path) as child:
        assert child.wait() == 0, child.err
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(processes)]
    shown = [{name: {k: f"{v / MIB:.1f} MiB" for k, v in x.items()} for name, x in one.items()} for one in found]
    own = 4 * weights / processes
    """Weights, gradients and two moments."""
    with_whole_state = 2 * weights / processes + 2 * weights
    for one in found:
        assert one["divided"]["life"] < own + SLACK * weights < with_whole_state, (weights / MIB, shown)
    for one in found[1:]:
        # The first process loads the weights whole, the others never have them.
        assert one["divided"]["start"] < (1 / processes + SLACK) * weights, (weights / MIB, shown)
    if processes == 2:
        assert all(one["whole"]["life"] > with_whole_state for one in found), (weights / MIB, shown)
        assert all(one["whole"]["start"] > weights for one in found), (weights / MIB, shown)
