"""How long the quick commands take: `kidpipe --help`, and `kidpipe status` on a store of 50,000 shards.

python -m bench.startup --json startup.json
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer


def main(
    shards: int = 50_000,
    repeats: int = 7,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Time both commands as a user would: whole processes, wall time."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder) / "artifacts" / "score"
        stage.mkdir(parents=True)
        for number in range(shards):
            (stage / f"{number:032x}.512.{number:032x}.parquet").touch()
        figures = {
            "help_s": _seconds(["--help"], folder, repeats),
            "status_s": _seconds(["status", "--json"], folder, repeats),
            "bare_python_s": _seconds(None, folder, repeats),
            "shards": shards,
        }
    text = json.dumps(figures, indent=1)
    if out:
        out.write_text(text + "\n", encoding="utf-8")
    print(text)


def _seconds(arguments: list[str] | None, folder: str, repeats: int) -> dict[str, float]:
    command = (
        [sys.executable, "-c", "pass"] if arguments is None else [str(Path(sys.executable).with_name("kidpipe")), *arguments]
    )
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return {"median": round(statistics.median(times), 3), "best": round(min(times), 3), "worst": round(max(times), 3)}


if __name__ == "__main__":
    typer.run(main)
