"""How long the quick commands take: `kidpipe --help`, and `kidpipe status` and `plan` on stores of 1,000 and 50,000 shards.

python -m bench.startup --json startup.json
"""

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from kidcore.config.config import DataSettings
from kidcore.store.graph import Grid
from kidcore.store.store import Shard
from kidpipe.commands.session import open_session
from kidpipe.demo.recipe import ModelSize
from kidpipe.demo.setup import make_models
from pipeline.context import open_context
from pipeline.stages import stages


def main(
    sizes: str = "1000,50000",
    repeats: int = 5,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Time commands as a user would: whole processes, wall time and processor time, on stores that are done."""
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, Any] = {"load_average": os.getloadavg()[0]}
        figures |= {"help": _seconds(["--help"], folder, repeats), "bare_python": _seconds(None, folder, repeats)}
        for size in map(int, sizes.split(",")):
            place = Path(folder) / str(size)
            shards = make_done_store(place, size)
            times = {name: _seconds([name, "--json"], str(place), repeats) for name in ("status", "plan")}
            figures[f"{size} shards"] = {"shards": shards, **times}
    text = json.dumps(figures, indent=1)
    if out:
        out.write_text(text + "\n", encoding="utf-8")
    print(text)


def make_done_store(folder: Path, shards: int) -> int:
    """Data, a model and a store whose shards have the right names and nothing in them; returns how many there are."""
    data = DataSettings(path=str(folder / "data"))
    (folder / "data" / "database" / "d").mkdir(parents=True)
    with closing(sqlite3.connect(folder / "data" / "database" / "d" / "d.sqlite")) as connection:
        connection.execute("CREATE TABLE t (a INT)")
    rows = shards // 12 * 4  # two shards of a part have no views, and five stages have two
    asked = [{"db_id": "d", "question": f"how many of {n}?", "query": f"SELECT a FROM t WHERE a = {n}"} for n in range(rows)]
    (folder / "data" / "train_spider.json").write_text(json.dumps(asked), encoding="utf-8")
    size = ModelSize(hidden_size=32, layers=1, heads=1, kv_heads=1, intermediate=32)
    make_models(data, {folder / "model": size}, vocab_size=320, max_length=4096, seed=0)
    places = {"data.path": "data", "teacher.model": "model", "train.student": "model", "store.path": "artifacts"}
    settings = {name: str(folder / place) for name, place in places.items()} | {"ingest.shard_rows": 4, "mask.views": 2}
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
    (folder / "kidpipe.toml").write_text("".join(lines), encoding="utf-8")
    session = open_session(folder / "kidpipe.toml", [], {})
    context = open_context(session.config)
    grid, made = Grid(stages(context), context.parts, session.store), 0
    for stage in grid.stages:
        (session.store.root / stage.name).mkdir(parents=True)
        for cell in list(grid.cells(stage)):
            shard = Shard(stage.name, cell.key, grid.parts[cell.part].rows, cell.key[::-1])
            session.store.path(shard).touch()
            grid.add(shard)
            made += 1
        list(grid.cells(stage))
    context.close()
    return made


def _seconds(arguments: list[str] | None, folder: str, repeats: int) -> dict[str, float]:
    command = (
        [sys.executable, "-c", "pass"] if arguments is None else [str(Path(sys.executable).with_name("kidpipe")), *arguments]
    )
    wall, processor = [], []
    for _ in range(repeats):
        before, started = os.times(), time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        wall.append(time.perf_counter() - started)
        after = os.times()
        processor.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return {
        "median_s": round(statistics.median(wall), 3),
        "best_s": round(min(wall), 3),
        "processor_s": round(min(processor), 3),
    }


if __name__ == "__main__":
    typer.run(main)
