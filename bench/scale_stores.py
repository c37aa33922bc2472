"""A finished store in; seconds and memory of what people do with it out: plan, a build with nothing stale, a first step.

Commands are whole processes, timed from their start; a `first` one makes what is kept for the next. The others are run several
times, back to back: the first of them may find files that are not in memory.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.big_store import VIEWS, make_store
from bench.process_tree import process_tree
from kidcore.config.processes import peak_memory_mib
from kidpipe.commands.session import open_session
from kidpipe.commands.train import prepare_run, source_of
from train.data.dataset import Dataset
from train.data.distribute import MicroBatcher

WANTED = {
    "plan": ("wall_s", 10.0),
    "build with nothing stale": ("wall_s", 15.0),
    "first training step": ("to_first_step_s", 20.0),
    "first training step, 8 processes": ("to_first_step_s", 20.0),
}
"""Seconds that are to be kept at any size."""
WANTED_MIB = 1024
"""Of each process."""
_KEPT = ("outline.json", "cache")
_READ_STEPS = 200
_POLL_S = 0.02


def measure_store(folder: Path, rows: int, times: int = 3) -> dict[str, Any]:
    """Everything about one size; the store is made where it is not there."""
    place = folder / str(rows)
    make_store(place, rows)
    store = place / "artifacts"
    for name in _KEPT:
        path = store / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(store / "runs", ignore_errors=True)
    figures = _about(place, rows) | {"load_average_at_start": os.getloadavg()[0]}
    plan, build = ["plan", "--json", "--check"], ["build-imperfect", "--json"]
    once: dict[str, Callable[[], Mapping[str, float]]] = {
        "first plan": lambda: _command(place, plan),
        "first training step, index made": lambda: _first_step(place, 1),
        "reading": lambda: json.loads(subprocess.run(reading, check=True, capture_output=True, text=True).stdout),
    }
    reading = [sys.executable, "-m", "bench.scale_stores", str(place)]
    again: dict[str, Callable[[], Mapping[str, float]]] = {
        "plan": lambda: _command(place, plan),
        "build with nothing stale": lambda: _command(place, build),
        "first training step": lambda: _first_step(place, 1),
        "first training step, 8 processes": lambda: _first_step(place, 8),
    }
    for name, measure in (once | again).items():
        runs = [measure() for _ in range(times if name in again else 1)]
        figures[name] = runs[0] if name in once else {"runs": runs, **_medians(runs)}
        # Said as soon as it is known: the whole takes minutes, and a machine may be taken away.
        print(rows, name, json.dumps(figures[name]), flush=True)
    figures["index_bytes_an_example"] = round(_bytes(store / "cache") / rows, 1)
    figures["not_kept"] = not_kept(figures)
    return figures | {"load_average_at_end": os.getloadavg()[0]}


def not_kept(figures: Mapping[str, Any]) -> list[str]:
    """What took more than is wanted, in any of its runs."""
    found = []
    for name, (figure, most) in WANTED.items():
        for run in figures[name]["runs"]:
            if run[figure] > most:
                found.append(f"{name}: {run[figure]} s instead of {most:g}")
            if run["peak_mib"] > WANTED_MIB:
                found.append(f"{name}: {run['peak_mib']} MiB instead of {WANTED_MIB}")
    return found


def _about(place: Path, rows: int) -> dict[str, Any]:
    """How large a store is, and of what its scores are."""
    store = place / "artifacts"
    shards = sorted((store / "score").glob("*.parquet"))
    one = pq.read_table(shards[0], partitioning=None)
    positions, ids = (len(one[name].combine_chunks().flatten()) for name in ("tail", "topk_ids"))
    return {
        "rows": rows,
        "views": VIEWS,
        "shards": sum(1 for _ in store.glob("*/*.parquet")),
        "bytes": _bytes(store),
        "data_bytes": _bytes(place / "data"),
        "score_shards": len(shards),
        "score_bytes": _bytes(store / "score"),
        "score_bytes_a_row": round(_bytes(store / "score") / rows / VIEWS),
        "score_positions_a_row": round(positions / one.num_rows, 1),
        "score_ids_a_position": round(ids / positions, 1),
        "score_bytes_a_row_in_memory": round(one.nbytes / one.num_rows),
    }


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _command(place: Path, words: Sequence[str]) -> dict[str, float]:
    """A command from start to end."""
    return _watched(place, ["-m", "kidpipe", *words, "--config", str(place / "kidpipe.toml")], None)


def _first_step(place: Path, processes: int) -> dict[str, float]:
    """A run of one step with a small student, from nothing; its time to the first step that the log tells of."""
    run = place / "artifacts" / "runs" / "measured"
    shutil.rmtree(run, ignore_errors=True)
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    words = [
        "train",
        "--config",
        str(place / "kidpipe.toml"),
        "--method",
        "kid",
        "--name",
        run.name,
        "--set",
        "train.max_steps=1",
    ]
    return _watched(place, [*several, "-m", "kidpipe", *words], run / "log.jsonl")


def _watched(place: Path, arguments: Sequence[str], log: Path | None) -> dict[str, float]:
    """Wall and processor time of a command, and the largest resident set of one of its processes."""
    began, figures, peak, processor = time.perf_counter(), {}, 0.0, 0.0
    with (place / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=said, stderr=said, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        # The peak that waiting for a process tells of includes that of the process which started it.
        while process.poll() is None:
            processes = [seen for pid in process_tree(process.pid) if (seen := _look(pid)) is not None]
            peak = max([peak, *(mib for mib, _ in processes)])
            processor = max(processor, sum(seconds for _, seconds in processes))
            if log is not None and "to_first_step_s" not in figures and log.exists() and '"kind": "step"' in log.read_text():
                figures["to_first_step_s"] = round(time.perf_counter() - began, 2)
                figures["processor_to_first_step_s"] = round(processor, 2)
            time.sleep(_POLL_S)
        wall_s = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{process.args!r} failed: {(place / 'said.txt').read_text()[-2000:]}")
    return figures | {"wall_s": round(wall_s, 2), "processor_s": round(processor, 2), "peak_mib": round(peak, 1)}


def _look(pid: int) -> tuple[float, float] | None:
    """The most that a process has held in memory so far, MiB, and the processor seconds that it has used."""
    try:
        status = (Path("/proc") / str(pid) / "status").read_text()
        times = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
        peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
        return peak, (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, IndexError, ValueError):
        return None


def read(place: Path) -> dict[str, float]:
    """What one process reads and packs of the stream, from a step in the middle of an epoch on."""
    session = open_session(place / "kidpipe.toml", [], {})
    prepared = prepare_run(session, quiet=True)
    dataset, batcher = Dataset(source_of(session, prepared), session.config.train), MicroBatcher("tree", 4096)
    steps = min(_READ_STEPS, dataset.steps_per_epoch // 2)
    began, cpu = time.perf_counter(), time.process_time()
    stream = dataset.steps(dataset.steps_per_epoch // 2)
    for examples in islice(stream, steps):
        batcher.cut(examples)
    wall, processor = time.perf_counter() - began, time.process_time() - cpu
    number = steps * session.config.train.batch_size
    return {
        "examples": number,
        "examples_a_second": round(number / wall),
        "examples_a_processor_second": round(number / processor),
        "peak_mib": peak_memory_mib(),
    }


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1]))))
