"""A finished run's figures in, `result.json` out; and back."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from kidcore.method.knowledge import GoldKnowledge
from train.checkpoint import write_json

_STORED = ("steps", "best_step", "best_nll", "final_nll", "start_nll", "seconds")
"""Figures of a TrainResult that result.json holds."""
_KNOWLEDGE = ("start_knowledge", "final_knowledge")


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


def read_result(out: Path) -> TrainResult | None:
    """What the run in folder `out` came to; None before its end."""
    path = out / "result.json"
    if not path.exists():
        return None
    # Runs of an older kidpipe did not look at their start.
    figures = {"start_nll": None} | json.loads(path.read_text(encoding="utf-8"))
    start, final = (GoldKnowledge.from_json(figures.pop(name, None)) for name in _KNOWLEDGE)
    figures = {name: math.nan if value is None else value for name, value in figures.items()}
    return TrainResult(
        **figures, best=out / "best", last=out / "last", was_finished=True, start_knowledge=start, final_knowledge=final
    )


def write_result(out: Path, result: TrainResult) -> None:
    """Put result.json in place: from then on the run is finished."""
    figures = {name: value for name, value in asdict(result).items() if name in _STORED}
    # JSON has no nan; null stands for it.
    plain = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in figures.items()}
    known = {"start_knowledge": result.start_knowledge, "final_knowledge": result.final_knowledge}
    write_json(out / "result.json", plain | {name: None if x is None else x.as_json() for name, x in known.items()})


def start_knowledge(out: Path) -> GoldKnowledge | None:
    """What the student as it was given thought of the holdout's gold, from the log: the run may have been interrupted since."""
    try:
        with (out / "log.jsonl").open(encoding="utf-8") as log:
            line = json.loads(next(log))
    except (OSError, StopIteration, ValueError):
        return None
    is_start = isinstance(line, dict) and line.get("step") == 0
    return GoldKnowledge.from_json(line.get("on_gold")) if is_start else None
