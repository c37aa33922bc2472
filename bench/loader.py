"""A Spider folder in; the share of an optimiser step that the trainer waits for its data, by loader workers, out.

    python -m bench.loader --data spider --json loader.json

Whole runs of the trainer over shards on disk: method kid, real prompts, teacher distributions of the usual sizes, students
small enough that a step is short, which is the hard case. The first steps, in which workers start, are reported apart.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.examples import make_steps
from bench.mix import read_rows
from bench.session import Session, describe, environment, finish, open_session, run
from bench.students import VOCAB_SIZE, Shape, make_model, shapes
from kidcore.config.train_settings import TrainSettings
from kidcore.store.schemas import schema_of
from train.data.dataset import Source
from train.data.examples import Branch, TrainingExample
from train.data.shards import PartFiles
from train.trainer import run as train

WORKERS = (0, 1, 2)
_SHARD_ROWS = 512
_FIRST = 4
"""Steps left out of the share: workers take seconds to start, once a run."""


@dataclass(frozen=True)
class Waits:
    """What one run waited for."""

    share: float
    """Of the time of all steps but the first ones."""
    step_s: float
    """Median step, loading included."""
    first_s: float
    """Waiting in the first steps."""


def main(arguments: list[str] | None = None) -> None:
    """Print a table, and write the JSON."""
    budget_s = {"cpu": 420.0, "cuda": 240.0, "full": 1500.0}
    session = open_session("bench.loader", __doc__, arguments, budget_s=budget_s, rounds=3)
    where = environment(session.device)
    limit = 0 if session.size == "full" else 150 if session.size == "tiny" else 2500
    rows, _ = read_rows(session.data, VOCAB_SIZE, limit=limit)
    steps = make_steps(rows, batch_size=1, group_size=1, views=4, rewritten=0.05, vocab_size=VOCAB_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        source = _write_build(Path(folder), [example for step in steps for example in step])
        measured = {shape.name: _measure(session, shape, source, Path(folder)) for shape in shapes(session.size, session.device)}
    ratios = {
        f"loader_share_{name}_workers{workers}": statistics.median(wait.share for wait in waits)
        for name, by_workers in measured.items()
        for workers, waits in by_workers.items()
    }
    ratios["loader_share"] = max(share for name, share in ratios.items() if name.endswith("workers1"))
    cases = {
        name: {workers: [vars(wait) for wait in waits] for workers, waits in by_workers.items()}
        for name, by_workers in measured.items()
    }
    finish(session, {"ratios": ratios, "cases": cases, "environment": where}, f"{describe(where)}\n\n{_table(measured)}")


def _measure(session: Session, shape: Shape, source: Source, folder: Path) -> dict[int, list[Waits]]:
    """Runs with each number of workers in turn, as many rounds as the budget allows and at least one."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    student = folder / shape.name
    make_model(shape, "cpu").save_pretrained(student)
    waits: dict[int, list[Waits]] = {workers: [] for workers in WORKERS}
    longest_s = 0.0
    for number in range(session.rounds):
        began = time.perf_counter()
        if number and longest_s > session.left_s:
            break
        for workers in WORKERS:
            waits[workers].append(_wait(session, source, student, folder / f"{shape.name}-{number}-{workers}", workers))
        longest_s = max(longest_s, time.perf_counter() - began)
    return waits


def _wait(session: Session, source: Source, student: Path, out: Path, workers: int) -> Waits:
    num_steps, batch_size = (8, 8) if session.size == "tiny" else (24, 32)
    settings = TrainSettings(
        method="kid",
        gold_share=0.0,
        views_per_step=4,
        batch_size=batch_size,
        max_steps=num_steps,
        eval_every=num_steps,
        loader_workers=workers,
    )
    train(settings, source, student, out, device=session.device, progress=False)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    later = steps[_FIRST:]
    share = sum(line["loader_seconds"] for line in later) / sum(line["seconds"] for line in later)
    first_s = sum(line["loader_seconds"] for line in steps[:_FIRST])
    return Waits(share, statistics.median(line["seconds"] for line in later), first_s)


def _table(measured: dict[str, dict[int, list[Waits]]]) -> str:
    lines = [
        "| student | workers | share of a step | lowest to highest | step | waiting at the start |",
        "|---|---|---|---|---|---|",
    ]
    for name, by_workers in measured.items():
        for workers, waits in by_workers.items():
            shares = [wait.share for wait in waits]
            step, first = (statistics.median(x) for x in ([w.step_s for w in waits], [w.first_s for w in waits]))
            lines.append(
                f"| {name} | {workers} | {statistics.median(shares):.2%} | {min(shares):.2%} to {max(shares):.2%}"
                f" | {step * 1000:.0f} ms | {first:.1f} s |"
            )
    return "\n".join(lines)


def _write_build(folder: Path, examples: Sequence[TrainingExample]) -> Source:
    """Shards as a build leaves them: gold in the first branch of each example, views in the others."""
    parts = []
    for number, start in enumerate(range(0, len(examples), _SHARD_ROWS)):
        members = examples[start : start + _SHARD_ROWS]
        views = range(1, len(members[0].branches))
        scores = tuple(folder / f"score-{number}-{v}.parquet" for v in views)
        files = PartFiles(number, {"ingest": (folder / f"ingest-{number}.parquet",), "score": scores})
        _write(files.one("ingest"), schema_of("ingest"), [_ingest_row(example) for example in members])
        for view, path in zip(views, scores, strict=True):
            _write(path, schema_of("score"), [_score_row(example, view) for example in members])
        parts.append(files)
    return Source(parts, eos_id=1, digest="bench")


def _ingest_row(example: TrainingExample) -> dict[str, Any]:
    extra = {"question": "", "gold_sql": "", "schema_tokens": 0, "gold_starts": [], "reason": None}
    return _tokens(example) | extra


def _score_row(example: TrainingExample, view: int) -> dict[str, Any]:
    branch = example.branches[view]
    teacher = branch.teacher
    assert teacher is not None
    unused = [0.0] * branch.num_supervised
    return _tokens(example) | {
        "view": view - 1,
        "imperfect_ids": _sql(branch),
        "masked": [],
        "topk_count": teacher.count.tolist(),
        "topk_ids": teacher.ids.tolist(),
        "topk_logprobs": teacher.logprobs.tolist(),
        "tail": teacher.tail.tolist(),
        "actual_logprob": unused,
        "gold_logprob": unused,
    }


def _tokens(example: TrainingExample) -> dict[str, Any]:
    gold = example.branches[0]
    prompt = gold.tokens[: gold.start].tolist()
    return {"example_id": example.example_id, "db_id": example.db_id, "prompt_ids": prompt, "gold_ids": _sql(gold)}


def _sql(branch: Branch) -> list[int]:
    ids: list[int] = branch.tokens[branch.start :].tolist()
    return ids


def _write(path: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
