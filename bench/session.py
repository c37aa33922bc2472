"""The command line that the training benchmarks share in; options, and at the end a Markdown table and one JSON file, out.

`--tiny` ends in seconds and says nothing about speed, the default size ends within ten minutes on two idle cores, and
`--full` is for the record. Rounds stop where the next one would not fit into the time budget.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from kidcore.config.processes import usable_cores
from kidcore.errors import KidpipeError

Size = Literal["tiny", "quick", "full"]
DEFAULT_DATA = Path("spider")


@dataclass(frozen=True)
class Session:
    """What was asked for."""

    data: Path
    json: Path | None
    size: Size
    device: str
    rounds: int
    budget_s: float
    """Seconds for all measurements together."""
    began_s: float

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget_s - (time.perf_counter() - self.began_s)


def open_session(
    module: str,
    doc: str | None,
    arguments: list[str] | None,
    *,
    budget_s: dict[str, float],
    rounds: int = 5,
    needs_data: bool = True,
) -> Session:
    """Read the command line.

    Args:
        module: the benchmark's name, for its help.
        doc: its module docstring.
        arguments: the command line; None = the process's own.
        budget_s: seconds for the measurements on `cpu`, on `cuda`, and for `full` on the CPU.
        rounds: default of --rounds.
        needs_data: whether it reads a data folder.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if needs_data:
        parser.add_argument(
            "--data", type=Path, default=DEFAULT_DATA, help=f"folder in the Spider layout; default {DEFAULT_DATA}"
        )
    parser.add_argument("--json", type=Path, help="where to write the figures")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--full", dest="size", action="store_const", const="full", default="quick", help="the size for the record")
    sizes.add_argument("--tiny", dest="size", action="store_const", const="tiny", help="seconds; only shows that it runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    parser.add_argument("--rounds", type=int, default=rounds, help="most measurements of each way, interleaved")
    parser.add_argument("--budget", type=float, help="seconds for all measurements; no round is begun that would exceed it")
    options = parser.parse_args(arguments)
    _check(options)
    kind = "full" if options.device == "cpu" and options.size == "full" else options.device
    budget = budget_s[kind] if options.budget is None else options.budget
    rounds = 1 if options.size == "tiny" else options.rounds
    data = options.data if needs_data else Path()
    return Session(data, options.json, options.size, options.device, rounds, budget, time.perf_counter())


def _check(options: argparse.Namespace) -> None:
    if "data" in options and not (options.data / "train_spider.json").is_file():
        raise KidpipeError(
            "there is no Spider data to measure on",
            where=f"{options.data / 'train_spider.json'}",
            fix="give the folder that holds train_spider.json and database/: --data FOLDER",
        )
    if options.json and not options.json.resolve().parent.is_dir():
        raise KidpipeError("the folder of the JSON file does not exist", where=str(options.json), fix="make it, or name another")
    if options.rounds < 1:
        raise KidpipeError("nothing would be measured", where=f"--rounds {options.rounds}", fix="give 1 or more")
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise KidpipeError("no CUDA device is available", where="--device cuda", fix="use --device cpu")


def environment(device: str) -> dict[str, Any]:
    """Where the figures come from."""
    import torch

    chip = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": chip,
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    } | {name: _version(name) for name in ("torch", "transformers", "trl", "liger-kernel")}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def describe(where: dict[str, Any]) -> str:
    """One line above the tables."""
    libraries = ", ".join(f"{name} {where[name]}" for name in ("python", "torch", "transformers", "trl", "liger-kernel"))
    return (
        f"{where['date']}, {where['device']}, {where['cores']} cores, {where['threads']} threads, load average"
        f" {where['load_average']} at the start. {libraries}."
    )


def finish(session: Session, figures: dict[str, Any], text: str) -> None:
    """Print the text, and write the figures where they were asked for."""
    print(text)
    if session.json:
        session.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def run(main: Callable[[], None]) -> None:
    """Call `main`; errors for people end it without a traceback."""
    try:
        main()
    except KidpipeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
