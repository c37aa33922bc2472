"""A data folder in; what two engines of one thread score a second on two cores, over one engine of one thread and of two, out.

python -m bench.two_engines --data spider --turns 3 --json two_engines.json

Real builds as far as the stage gold_score, ingest made before. The ways take turns, each build in a process of its own, bound to
the same two cores. A rate is that of the time in which every engine of a way works: from when each has finished its first shard,
its start with it, until the first of them finishes its last.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.timing import table
from kidcore.config.config import DataSettings
from kidcore.config.config_load import load_config
from kidcore.store.log import shard_records
from kidcore.store.store import Store
from kidpipe.demo.recipe import ModelSize
from kidpipe.demo.setup import make_models
from pipeline.build import build
from pipeline.context import open_context

_CORES = 2
WAYS: dict[str, tuple[int, int]] = {"one engine, one thread": (1, 1), "one engine, two threads": (1, 2), "two engines": (2, 1)}
"""Engines, and threads of each."""


def main(
    data: Annotated[str, typer.Option(help="Folder of a data set in Spider's layout.")],
    backends: str = "transformers,vllm",
    turns: int = 3,
    parts: int = 24,
    rows: Annotated[int, typer.Option(help="Questions a shard.")] = 16,
    hidden: int = 256,
    layers: int = 6,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Build in each way, turn after turn."""
    cores = sorted(os.sched_getaffinity(0))[:_CORES]
    os.sched_setaffinity(0, cores)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shown = DataSettings.model_validate({"path": data, "sample": parts * rows})
        size = ModelSize(hidden_size=hidden, layers=layers, heads=hidden // 64, kv_heads=1, intermediate=4 * hidden)
        make_models(shown, {folder / "teacher": size}, vocab_size=4096, max_length=4096, seed=0)
        teacher = str(folder / "teacher")
        settings = {"data.path": str(Path(data).absolute()), "data.sample": parts * rows, "ingest.shard_rows": rows}
        settings |= {"teacher.model": teacher, "train.student": teacher, "engine.device": "cpu", "teacher.dtype": "float32"}
        _run(settings | {"store.path": str(folder / "ingested")}, "ingest", 1)
        for turn in range(turns):
            for backend in backends.split(","):
                for way in list(WAYS)[turn % 3 :] + list(WAYS)[: turn % 3]:
                    root, (engines, threads) = folder / "store", WAYS[way]
                    shutil.copytree(folder / "ingested", root)
                    more = {"store.path": str(root), "engine.backend": backend, "engine.workers": engines}
                    _run(settings | more, "gold_score", threads)
                    found.append(
                        {"turn": turn, "backend": backend, "way": way, "load": os.getloadavg()[0], **rate(root, engines)}
                    )
                    shutil.rmtree(root)
                    print(json.dumps(found[-1]), flush=True)
    over = {backend: ratios(found, backend) for backend in backends.split(",")}
    figures = {"settings": {"parts": parts, "rows": rows, "hidden": hidden, "layers": layers}, "runs": found, "ratios": over}
    if out:
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    _show(over)


def rate(root: Path, engines: int) -> dict[str, float]:
    """Questions a second while all engines worked, and how many they were."""
    made = {record["key"]: record.get("worker", "") for record in shard_records(root) if record["stage"] == "gold_score"}
    store, times = Store(root), dict[str, list[tuple[float, int]]]()
    for key, shard in store.scan("gold_score").items():
        times.setdefault(made[key], []).append((store.path(shard).stat().st_mtime, shard.rows))
    assert len(times) == engines, "an engine made nothing"
    begin, end = max(min(of)[0] for of in times.values()), min(max(of)[0] for of in times.values())
    rows = sum(rows for of in times.values() for time, rows in of if begin < time <= end)
    return {"seconds": round(end - begin, 2), "rows": rows, "rows_a_second": round(rows / (end - begin), 2)}


def ratios(found: Sequence[Mapping[str, Any]], backend: str) -> dict[str, dict[str, Any]]:
    """Of two engines over one, turn by turn: all of them, their median, the smallest and the largest."""
    rates = {(one["turn"], one["way"]): one["rows_a_second"] for one in found if one["backend"] == backend}
    said = {}
    for way in [way for way in WAYS if way != "two engines"]:
        each = [rates[turn, "two engines"] / rates[turn, way] for turn in sorted({turn for turn, _ in rates})]
        said[way] = {"turns": each, "median": statistics.median(each), "smallest": min(each), "largest": max(each)}
    return said


def _run(settings: Mapping[str, object], until: str, threads: int) -> None:
    """A build in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "bench.two_engines", "--child", json.dumps(settings), until]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


def child(settings: dict[str, object], until: str) -> None:
    """One build."""
    config = load_config(None, settings, {}).config
    context = open_context(config)
    try:
        build(context, Store(Path(config.store.path)), until=until, progress=False)
    finally:
        context.close()


def _show(said: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    lines = [
        [backend, way, *(f"{of[name]:.2f}" for name in ("median", "smallest", "largest"))]
        for backend, ways in said.items()
        for way, of in ways.items()
    ]
    print(table(["engine", "two engines over", "median", "smallest", "largest"], lines))


if __name__ == "__main__":
    if "--child" in sys.argv:
        given = sys.argv[sys.argv.index("--child") + 1 :]
        child(json.loads(given[0]), given[1])
    else:
        typer.run(main)
