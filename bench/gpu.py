"""What needs a CUDA device and has no figure yet, most wanted first, each part in its own time; one JSON that grows out.

    python -m bench.gpu --minutes 8 --out FOLDER [--device cpu]

Random weights and drawn token ids: no data, no models and no network are needed, nor vLLM. FOLDER/gpu.json is written anew
with every figure. A part that fails is recorded with its error and the next one goes on, in another process where this one
did not survive. On a CPU everything is tiny: that shows that the parts run, and nothing else.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_START_S = 20
"""A process needs to start, and a part at least, for it to be worth trying again."""
_GRACE_S = 15
"""Behind a part's time, until the process is ended that does not end the part itself."""


class OutOfTimeError(BaseException):
    """Not an Exception: whatever a part tries to survive, its time is over."""


@dataclass
class Report:
    """The JSON, on disk whenever it changes."""

    path: Path
    figures: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path) -> "Report":
        """The report in `folder`, as far as it is written."""
        path = folder / "gpu.json"
        return cls(path, json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"parts": {}})

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """What is known of each part that was begun."""
        parts: dict[str, dict[str, Any]] = self.figures["parts"]
        return parts

    def write(self) -> None:
        """Put it in place, whole."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(self.figures, indent=1) + "\n", encoding="utf-8")
        fresh.replace(self.path)

    def settle(self, why: str) -> None:
        """Mark the part that was running when its process ended."""
        for part in self.parts.values():
            if part["status"] == "running":
                part |= {"status": "failed", "error": why}
        self.write()


@dataclass(frozen=True)
class Part:
    """`work` takes what measures and a function that records a figure. `seconds` are its share of the time beside others'."""

    name: str
    seconds: float
    work: Callable[[Any, Callable[[str, Any], None]], None]


def main(arguments: list[str] | None = None) -> None:
    """Run the parts in a process of their own, and again behind one that ended it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for gpu.json")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.until:
        # The figures' libraries are heavy, and only the process that measures loads them.
        from bench.gpu_bench import Bench
        from bench.gpu_parts import PARTS
        from bench.session import environment

        report = Report.at(options.out)
        report.figures.setdefault("environment", environment(options.device))
        work(report, PARTS, lambda: Bench.on(options.device), options.until)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").unlink(missing_ok=True)
    until = time.time() + 60 * options.minutes
    command = [sys.executable, "-m", "bench.gpu", "--out", str(options.out), "--device", options.device, "--until", str(until)]
    while time.time() + _START_S < until:
        code = _watch(subprocess.Popen(command), options.out)
        Report.at(options.out).settle(f"its process ended with {code}")
        if code == 0:
            break
    print(f"written: {options.out / 'gpu.json'}", flush=True)


def _watch(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Wait for the process; end it where a part is long over its time, in a call that no signal interrupts."""
    while process.poll() is None:
        time.sleep(0.5)
        limits = [part["until"] for part in Report.at(folder).parts.values() if part["status"] == "running"]
        if limits and time.time() > limits[0] + _GRACE_S:
            process.kill()
    return process.wait()


def work(report: Report, parts: list[Part], open_bench: Callable[[], Any], until: float) -> None:
    """Run the parts that the report does not have, each within its share of what is left.

    Args:
        report: where figures go.
        parts: all of them, most wanted first.
        open_bench: makes what the parts measure with; called again behind a part that failed.
        until: when everything has to be over, seconds since the epoch.
    """
    bench = None
    for number, part in enumerate(parts):
        if part.name in report.parts:
            continue
        left = until - time.time()
        # Half as much again as its share: what is wanted most should not end just before its figure.
        limit = min(left, 1.5 * left * part.seconds / sum(x.seconds for x in parts[number:]))
        entry: dict[str, Any] = {"status": "running", "until": time.time() + limit}
        report.parts[part.name] = entry
        if limit < 1:
            entry["status"] = "no time left"
            report.write()
            continue
        report.write()
        began = time.time()
        try:
            with _limit(limit):
                bench = bench or open_bench()
                part.work(bench, _recorder(report, part.name))
            entry["status"] = "done"
        except OutOfTimeError:
            entry["status"] = "out of time"
        except Exception as error:
            entry |= {"status": "failed", "error": repr(error)[:2000], "trace": traceback.format_exc()[-2000:]}
            bench = None
        entry["seconds"] = round(time.time() - began, 1)
        print(f"{part.name}: {entry['status']} after {entry['seconds']} s {entry.get('error', '')[:300]}", flush=True)
        report.write()
        if "CUDA error" in entry.get("error", ""):
            # Nothing runs in this process any more.
            sys.exit(3)


def _recorder(report: Report, part: str) -> Callable[[str, Any], None]:
    def record(name: str, value: Any) -> None:
        report.parts[part][name] = round(value, 5) if isinstance(value, float) else value
        report.write()
        print(f"{part:>12} | {name:<44} | {report.parts[part][name]}", flush=True)

    return record


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def over(*_: Any) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    main()
