"""A student and a data folder in; the resident set of a run by step, with the trainer's allocator settings and without, out.

python -m bench.memory MODEL DATA --steps 20 --out memory.json
python -m bench.memory MODEL DATA --store STORE --method kid --ways with --steps 100     # shards that were built before

Each way runs in a process of its own. `step_mib` is the resident set at the end of a step, `peak_mib` its largest within.
`expected_mib` is what the trainer expects of a step before the first one.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from kidpipe.commands.session import open_session
from kidpipe.commands.train import train
from train import memory, trainer
from train.student.ranks import Ranks

_WAYS = ("without", "with")


def main(
    model: Path,
    data: Path,
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("memory.json"),
    steps: int = 20,
    limit: int = 320,
    ways: str = ",".join(_WAYS),
    method: str = "sft",
    store: Annotated[Path | None, typer.Option(help="A store to train on; without one the data are ingested.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Further settings, section.field=value.")] = None,
) -> None:
    """Train `steps` steps in each way."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(store or Path(temporary) / "store")
        for way in ways.split(","):
            command = [sys.executable, "-m", "bench.memory", "--child", way, str(model), str(data), folder]
            done = subprocess.run(
                [*command, str(steps), str(limit), method, *(settings or ())], check=True, stdout=subprocess.PIPE, text=True
            )
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            last, tenth = row["step_mib"][-1], row["step_mib"][min(9, len(row["step_mib"]) - 1)]
            peak = max(row["peak_mib"][1:], default=0)
            print(f"{way:<8} step 10 {tenth:,} MiB, last {last:,}, peak {peak:,} ({row['expected_mib']:,} expected)")
            print(f"{'':<8} {row['seconds']:.1f} s and {row['cpu_s']:.1f} processor seconds a step")
    out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def child(way: str, model: str, data: str, folder: str, steps: str, limit: str, method: str, *settings: str) -> None:
    """One run; prints its figures as JSON."""
    if way == "without":
        for name, nothing in (("flat_memory", nullcontext), ("release_free_memory", lambda: None)):
            setattr(trainer, name, nothing)
    flags = {"data.path": data, "data.limit": int(limit), "train.student": model, "train.method": method}
    flags |= {"train.max_steps": int(steps), "train.loader_workers": 0, "train.holdout": 0.02, "train.eval_every": int(steps)}
    flags |= {"store.path": folder, "engine.device": "cpu"}
    session = open_session(None, list(settings), flags, use_file=False)
    ranks = Ranks(device=torch.device("cpu"))
    fitted, shape = memory.fitted(session.config.train, Path(model), ranks), memory.StudentShape.of(Path(model))
    expected = memory.step_bytes(shape, fitted, ranks.device) if shape else 0
    watch = Watch(Path(folder) / "runs" / way / "log.jsonl")
    watch.start()
    result = train(session, name=way, as_json=True)
    time.sleep(0.2)
    figures = {"way": way, "settings": flags | {"more": list(settings)}, "seconds": result["seconds"] / int(steps)}
    figures |= {"cpu_s": time.process_time() / int(steps), "expected_mib": expected >> 20}
    print(json.dumps(figures | {"step_mib": watch.step_mib, "peak_mib": watch.peak_mib, "anonymous_mib": watch.anonymous_mib}))


class Watch(threading.Thread):
    """Reads the resident set of this process whenever a step has been logged."""

    def __init__(self, log: Path) -> None:
        super().__init__(daemon=True)
        self._log = log
        self.step_mib: list[int] = []
        self.peak_mib: list[int] = []
        self.anonymous_mib: list[int] = []
        """Of `step_mib`, what is no page of a file."""

    def run(self) -> None:
        """Look twenty times a second."""
        while True:
            time.sleep(0.05)
            text = self._log.read_text(encoding="utf-8") if self._log.exists() else ""
            if text.count('"kind": "step"') > len(self.step_mib):
                status = resident()
                self.step_mib.append(status["VmRSS"])
                self.peak_mib.append(status["VmHWM"])
                self.anonymous_mib.append(status["RssAnon"])
                # Makes the kernel begin the largest resident set anew.
                Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def resident() -> dict[str, Any]:
    """Present and largest resident set of this process, MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) >> 10 for name in ("VmRSS", "VmHWM", "RssAnon")}


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(*sys.argv[sys.argv.index("--child") + 1 :])
    else:
        typer.run(main)
