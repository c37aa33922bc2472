"""A data folder in; the memory of a long build, shard by shard and in several ways, out: what grows, and what keeps it flat.

python -m bench.build_memory --data spider --json build_memory.json

Each way is a build of its own in a process of its own, with a narrow teacher whose vocabulary is of real width: its memory is
what the engine, the allocator and our own stages hold, hardly its weights. A figure is taken behind every shard that is written.
"""

import collections
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import torch
import typer

from bench.timing import table
from kidcore.config.config import DataSettings
from kidcore.config.config_load import load_config
from kidcore.models.backends import vllm_rows
from kidcore.store.graph import Cell
from kidcore.store.store import Store
from kidpipe.demo.models import make_model, train_tokenizer
from kidpipe.demo.setup import prompt_texts
from kidpipe.demo.world import make_world
from pipeline import serial
from pipeline.build import build
from pipeline.context import open_context
from pipeline.ledger import Ledger


@dataclass(frozen=True)
class Way:
    """One way to build."""

    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    keeps_lists: bool = False
    """Whether vLLM's front end makes lists of all rows, as without our hook."""
    gives_back: bool = False
    """Whether free memory goes back to the system behind each shard, as in every build; without it one sees what grows."""


_ONEDNN_BEFORE = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}
"""Its own default."""
WAYS = {
    "as it is": Way(gives_back=True),
    "as it was": Way(_ONEDNN_BEFORE),
    "one arena and low thresholds": Way(
        _ONEDNN_BEFORE | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
    ),
    "without the hook": Way(_ONEDNN_BEFORE, keeps_lists=True),
    "cache of 64 MiB": Way(_ONEDNN_BEFORE, {"engine.kv_cache_mib": 64}),
    "oneDNN's primitive cache off": Way({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0"}),
    "Arrow on the C library": Way(_ONEDNN_BEFORE | {"ARROW_DEFAULT_MEMORY_POOL": "system"}),
    "transformers": Way(settings={"engine.backend": "transformers"}),
}


def main(
    data: Annotated[str, typer.Option(help="Folder of a data set; empty = a world made on the spot.")] = "",
    layout: str = "spider",
    ways: Annotated[str, typer.Option(help="Which, commas between; empty = all.")] = "",
    shards: Annotated[int, typer.Option(help="Shards a stage.")] = 40,
    rows: Annotated[int, typer.Option(help="Questions a shard.")] = 16,
    vocabulary: Annotated[int, typer.Option(help="Rows of the teacher's output layer.")] = 151_936,
    layers: int = 4,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Build once in each way."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not data:
            make_world(folder / "data", num_train=shards * rows, num_dev=4, seed=0)
            data, layout = str(folder / "data"), "spider"
        settings = {"data.path": str(Path(data).absolute()), "data.layout": layout, "data.sample": shards * rows}
        shown = DataSettings.model_validate({"layout": layout, "path": data, "sample": 400})
        _make_teacher(folder / "teacher", shown, vocabulary, layers)
        for way in [name for name in WAYS if not ways or name in ways.split(",")]:
            given = {"way": way, "settings": settings | {"ingest.shard_rows": rows}, "folder": str(folder)}
            done = subprocess.run(
                [sys.executable, "-m", "bench.build_memory", "--child", json.dumps(given)],
                env=os.environ | dict(WAYS[way].environment),
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(_line(found[-1]), flush=True)
            if out:
                out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(["", *_COLUMNS], [_row(one) for one in found]))


def child(given: Mapping[str, Any]) -> None:
    """One build; prints its figures as JSON."""
    way, folder = WAYS[given["way"]], Path(given["folder"])
    if way.keeps_lists:
        _replace(vllm_rows, "install", lambda _version: "it is left out")
    if not way.gives_back:
        _replace(serial, "release_free_memory", lambda: None)
    watch = Watch()
    teacher = str(folder / "teacher")
    with tempfile.TemporaryDirectory(dir=folder) as root:
        settings: dict[str, object] = {
            "teacher.model": teacher,
            "train.student": teacher,
            "store.path": root,
            "engine.device": "cpu",
        }
        settings |= {"teacher.dtype": "float32", "mask.views": 1, "engine.backend": "vllm"}
        config = load_config(None, settings | dict(given["settings"]) | dict(way.settings), {}).config
        context, store = open_context(config), Store(Path(root))
        began, cpu = time.perf_counter(), time.process_time()
        build(context, store, progress=False)
        spent = {"seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
        context.close()
    grown = sorted(((watch.kinds[-1][kind] - count, kind) for kind, count in watch.kinds[0].items()), reverse=True)[:8]
    print(json.dumps({"way": given["way"], **spent, "shards": watch.figures, "grown": grown}))


def _replace(where: Any, name: str, what: Any) -> None:
    setattr(where, name, what)


class Watch:
    """Looks at the memory of this process behind every shard of a build."""

    def __init__(self) -> None:
        self.figures: list[dict[str, Any]] = []
        self.kinds: list[collections.Counter[str]] = []
        """Python's objects by type, behind the first shard at which a model worked and behind the last."""
        made = Ledger.made

        def watched(ledger: Ledger, cell: Cell) -> None:
            made(ledger, cell)
            self.look(cell.stage)

        _replace(Ledger, "made", watched)

    def look(self, stage: str) -> None:
        objects = gc.get_objects()
        if stage not in ("ingest", "mask"):
            self.kinds[1:] = [collections.Counter(type(one).__name__ for one in objects)]
        self.figures.append({"stage": stage, "objects": len(objects), **memory()})
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # makes the kernel begin the largest anew


def memory() -> dict[str, int]:
    """MiB: what is resident, of what kind, the most since it was last begun anew, and what the allocators say."""
    status = _fields("/proc/self/status")
    rollup = _fields("/proc/self/smaps_rollup")
    figures = {
        "resident": status["VmRSS"],
        "largest": status["VmHWM"],
        "anonymous": rollup["Anonymous"],
        "of_files": rollup["Rss"] - rollup["Anonymous"],
    }
    said = _mallinfo()
    figures |= {"c_mapped": said.hblkhd >> 10, "c_used": said.uordblks >> 10, "c_free": said.fordblks >> 10}
    figures["arrow"] = pa.total_allocated_bytes() >> 10
    return {name: value >> 10 for name, value in figures.items()}


def _fields(path: str) -> dict[str, int]:
    """KiB by name."""
    lines = (line.split() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"}


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def _mallinfo() -> Any:
    """What glibc says of all its arenas, bytes."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _Mallinfo
    return library.mallinfo2()


def _make_teacher(folder: Path, data: DataSettings, vocabulary: int, layers: int) -> None:
    tokenizer = train_tokenizer(prompt_texts(data), 4096)
    sizes = {"hidden_size": 64, "layers": layers, "heads": 2, "kv_heads": 1, "intermediate": 128}
    model = make_model(tokenizer, **sizes, max_length=4096, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


_COLUMNS = ("first shard of a model", "after a quarter", "after half", "last", "largest", "CPU s")


def _row(found: Mapping[str, Any]) -> list[str]:
    """Resident MiB behind the shards at which a model worked, from the first to the last."""
    asked = [shard["resident"] for shard in found["shards"] if shard["stage"] in ("gold_score", "predict", "score")]
    largest = max(shard["largest"] for shard in found["shards"])
    at = [asked[0], asked[len(asked) // 4], asked[len(asked) // 2], asked[-1], largest]
    return [found["way"], *(f"{value:,}" for value in at), f"{found['cpu_seconds']:.0f}"]


def _line(found: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} {value}" for name, value in zip(("", *_COLUMNS), _row(found), strict=True))


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(json.loads(sys.argv[sys.argv.index("--child") + 1]))
    else:
        typer.run(main)
