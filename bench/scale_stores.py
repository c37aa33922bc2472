"""A finished store in; seconds and memory of what people do with it out: plan, a build with nothing stale, a first step.

Commands are whole processes, timed from their start; a `first` one makes what is kept for the next.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bench.big_store import VIEWS, make_store
from kidcore.config.processes import peak_memory_mib
from kidpipe.commands.session import open_session
from kidpipe.commands.train import prepare_run, source_of
from train.data.dataset import Dataset
from train.data.distribute import MicroBatcher

_KEPT = ("outline.json", "cache")
_READ_STEPS = 200
_POLL_S = 0.02


def measure_store(folder: Path, rows: int) -> dict[str, Any]:
    """Everything about one size; the store is made where it is not there."""
    place = folder / str(rows)
    make_store(place, rows)
    store = place / "artifacts"
    for name in _KEPT:
        path = store / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(store / "runs", ignore_errors=True)
    figures: dict[str, Any] = {
        "rows": rows,
        "views": VIEWS,
        "shards": sum(1 for _ in store.glob("*/*.parquet")),
        "bytes": _bytes(store),
        "score_bytes_a_row": round(_bytes(store / "score") / rows / VIEWS),
        "data_bytes": _bytes(place / "data"),
        "load_average": os.getloadavg()[0],
    }
    plan, build = ["plan", "--json", "--check"], ["build-imperfect", "--json"]
    parts: dict[str, Callable[[], Mapping[str, float]]] = {
        "first plan": lambda: _command(place, plan),
        "plan": lambda: _command(place, plan),
        "build with nothing stale": lambda: _command(place, build),
        "first training step, index made": lambda: _first_step(place, 1, "first"),
        "first training step": lambda: _first_step(place, 1, "one"),
        "first training step, 8 processes": lambda: _first_step(place, 8, "eight"),
        "reading": lambda: json.loads(subprocess.run(reading, check=True, capture_output=True, text=True).stdout),
    }
    reading = [sys.executable, "-m", "bench.scale_stores", str(place)]
    for name, measure in parts.items():
        figures[name] = measure()
        # Said as soon as it is known: the whole takes minutes, and a machine may be taken away.
        print(rows, name, json.dumps(figures[name]), flush=True)
    figures["index_bytes_an_example"] = round(_bytes(store / "cache") / rows, 1)
    return figures


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _command(place: Path, words: Sequence[str]) -> dict[str, float]:
    """A command from start to end."""
    return _watched(place, ["-m", "kidpipe", *words, "--config", str(place / "kidpipe.toml")], None)


def _first_step(place: Path, processes: int, name: str) -> dict[str, float]:
    """A run of one step with a small student; its time to the first step that the log tells of."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    words = ["train", "--config", str(place / "kidpipe.toml"), "--name", name, "--set", "train.max_steps=1"]
    return _watched(place, [*several, "-m", "kidpipe", *words], place / "artifacts" / "runs" / name / "log.jsonl")


def _watched(place: Path, arguments: Sequence[str], log: Path | None) -> dict[str, float]:
    """Wall and processor time of a command, and the largest resident set of one of its processes."""
    began, figures, peak = time.perf_counter(), {}, 0.0
    with (place / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=said, stderr=said, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        # The peak that waiting for a process tells of includes that of the process which started it.
        while process.poll() is None:
            processes = [seen for pid in _tree(process.pid) if (seen := _look(pid)) is not None]
            peak = max([peak, *(mib for mib, _ in processes)])
            if log is not None and "to_first_step_s" not in figures and log.exists() and '"kind": "step"' in log.read_text():
                figures["to_first_step_s"] = round(time.perf_counter() - began, 2)
                figures["processor_to_first_step_s"] = round(sum(seconds for _, seconds in processes), 2)
            time.sleep(_POLL_S)
        wall_s = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{process.args!r} failed: {(place / 'said.txt').read_text()[-2000:]}")
    return figures | {"wall_s": round(wall_s, 2), "peak_mib": round(peak, 1)}


def _tree(pid: int) -> list[int]:
    """A process and those that it started, theirs included."""
    try:
        children = (Path("/proc") / str(pid) / "task" / str(pid) / "children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for child in children for found in _tree(int(child)))]


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
