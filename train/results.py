"""A finished run's figures in, `result.json` out; and back."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from kidcore.atomic import write_json
from kidcore.errors import KidpipeError
from kidcore.method.knowledge import GoldKnowledge
from kidcore.method.overlap import Overlap

_STORED = ("steps", "best_step", "best_nll", "final_nll", "start_nll", "seconds")
"""Figures of a TrainResult that result.json holds."""
_KNOWLEDGE = ("start_knowledge", "final_knowledge")
_OVERLAP = ("start_overlap", "final_overlap")


@dataclass(frozen=True)
class TrainResult:
    """What a run came to. The NLLs are those of gold per token on the holdout, nan without a holdout."""

    steps: int
    best_step: int
    """0: the student as it was given, which `best` is a copy of then."""
    best_nll: float
    final_nll: float
    start_nll: float
    """Of the student as it was given."""
    seconds: float
    """Training time over all interruptions, without start-up and evaluation."""
    best: Path
    last: Path
    was_finished: bool
    """Nothing was done: the run had been finished before."""
    start_knowledge: GoldKnowledge | None = None
    """Of the holdout's gold, by the student as it was given; None without a holdout, and in runs of an older kidpipe."""
    final_knowledge: GoldKnowledge | None = None
    start_overlap: Overlap | None = None
    """Of the student's likeliest tokens with the teacher's stored ones, on the holdout; None without stored scores there."""
    final_overlap: Overlap | None = None


def read_result(out: Path) -> TrainResult | None:
    """What the run in folder `out` came to; None before its end.

    Raises:
        KidpipeError: the file is there and cannot be read.
    """
    path = out / "result.json"
    if not path.exists():
        return None
    try:
        # Runs of an older kidpipe did not look at their start.
        figures = {"start_nll": None} | json.loads(path.read_text(encoding="utf-8"))
        start, final = (GoldKnowledge.from_json(figures.pop(name, None)) for name in _KNOWLEDGE)
        overlaps = [Overlap.from_json(figures.pop(name, None)) for name in _OVERLAP]
        figures = {name: math.nan if value is None else value for name, value in figures.items()}
        return TrainResult(
            **figures,
            best=out / "best",
            last=out / "last",
            was_finished=True,
            start_knowledge=start,
            final_knowledge=final,
            start_overlap=overlaps[0],
            final_overlap=overlaps[1],
        )
    except (ValueError, TypeError) as error:
        raise KidpipeError(f"not a run's result: {error}", where=str(path), fix=f"rm -r {out} and train again") from error


def write_result(out: Path, result: TrainResult) -> None:
    """Put result.json in place: from then on the run is finished."""
    figures = {name: value for name, value in asdict(result).items() if name in _STORED}
    # JSON has no nan; null stands for it.
    plain = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in figures.items()}
    known = {name: getattr(result, name) for name in (*_KNOWLEDGE, *_OVERLAP)}
    # Runs that teach no stored scores have no word on them.
    said = {name: None if x is None else x.as_json() for name, x in known.items() if x is not None or name in _KNOWLEDGE}
    write_json(out / "result.json", plain | said)


def start_figures(out: Path) -> tuple[GoldKnowledge | None, Overlap | None]:
    """The student as it was given, on the holdout's gold and scores, from the log: the run may have been interrupted since."""
    try:
        with (out / "log.jsonl").open(encoding="utf-8") as log:
            line = json.loads(next(log))
    except (OSError, StopIteration, ValueError):
        return None, None
    is_start = isinstance(line, dict) and line.get("step") == 0
    return (GoldKnowledge.from_json(line.get("on_gold")), Overlap.from_json(line.get("overlap"))) if is_start else (None, None)
