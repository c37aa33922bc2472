"""`kidpipe demo`: data made on the spot, a teacher trained, imperfect data built, two students trained and compared."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kidcore.atomic import write_text
from kidcore.config import processes
from kidcore.config.config_load import FILE, template
from kidcore.store.store import Store
from kidpipe.commands.build import build_imperfect
from kidpipe.commands.evaluate import evaluate
from kidpipe.commands.session import Session
from kidpipe.commands.train import train
from kidpipe.demo.recipe import QUICK, DemoRecipe
from kidpipe.demo.scores import kept_figures, print_end, print_scores
from kidpipe.demo.setup import prepare_world
from kidpipe.demo.steps import DemoSteps

SUMMARY = "summary.json"
_STDERR = 2
MODELS = ("teacher", "start", "sft", "kid")
STUDENTS_ALONE = ("start", "sft")
"""The runs of students that read gold alone: they need not wait for the teacher."""


@dataclass
class Demo(DemoSteps):
    """One run of the demo in its folder."""

    folder: Path
    recipe: DemoRecipe
    backend: str
    verbose: bool
    seconds: dict[str, float] = field(default_factory=dict)
    reused: set[str] = field(default_factory=set)

    def settings(self, folder: Path) -> dict[str, Any]:
        """The demo's settings; `folder` is where it lies, as they name it."""
        longest = self.recipe.max_length
        return {
            "data.path": str(folder / "data"),
            "store.path": str(folder),
            "teacher.model": str(folder / "runs" / "teacher" / "best"),
            "engine.backend": self.backend,
            "ingest.max_prompt_tokens": longest - 128,
            "ingest.max_sql_tokens": 96,
            "eval.max_new_tokens": 96,
            "data.limit": self.recipe.num_distilled,
            "train.batch_size": self.recipe.batch_size,
            "train.beta2": 0.98,
            "train.min_lr": 0.05,
            "train.seed": self.recipe.seed,
            "mask.views": self.recipe.views,
        }

    def run(self, name: str) -> str:
        return str(self.folder / "runs" / name / "best")

    def train(
        self,
        name: str,
        student: str,
        method: str,
        steps: int,
        rate: float,
        *,
        digest: str = "",
        is_silent: bool = False,
        **changes: Any,
    ) -> dict[str, Any]:
        changes |= {"train__student": student, "train__method": method, "train__max_steps": steps}
        changes |= {"train__learning_rate": rate, "train__eval_every": max(steps // 10, 1)}
        session = replace(self.session(**changes), is_silent=is_silent)
        result = train(session, name=name, as_json=False, digest=digest)
        if result["was_finished"]:
            self.reused.add(name)
        return result

    def train_student(self, name: str, *, digest: str = "", is_silent: bool = False) -> dict[str, Any]:
        """One of the students' runs: the short start, or a method that goes on from it."""
        recipe = self.recipe
        if name == "start":
            untrained, steps, rate = str(self.folder / "models" / "student"), recipe.start_steps, recipe.start_rate
            return self.train(name, untrained, "sft", steps, rate, digest=digest, is_silent=is_silent)
        steps, rate = recipe.student_steps, recipe.student_rate
        return self.train(name, self.run("start"), name, steps, rate, digest=digest, is_silent=is_silent)


def demo(folder: Path, *, quick: bool, backend: str, verbose: bool, as_json: bool) -> dict[str, Any]:
    """Run the whole pipeline on made data and write summary.json; what an earlier run finished is reused."""
    run = Demo(folder, QUICK if quick else DemoRecipe(), backend, verbose)
    # With --json the summary alone goes to stdout, and what the steps say to stderr.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        summary = _run_steps(run, folder)
    if as_json:
        run.session().print_json(summary)
    else:
        _print(run, summary)
    return summary


def _run_steps(run: Demo, folder: Path) -> dict[str, Any]:
    recipe, models = run.recipe, str(folder / "models")
    run.step(
        "world",
        "1. Make 14 databases, questions with gold SQL, a tokenizer and two untrained models",
        lambda: prepare_world(folder, recipe),
    )
    untrained = run.session(teacher__model="", train__student=f"{models}/teacher", data__limit=0)
    few = replace(run.session(teacher__model="", train__student=f"{models}/teacher"), is_silent=True)
    distilled = run.step(
        "ingest",
        "2. Tokenise prompts and check every gold SQL",
        lambda: _ingest(few, untrained),
    )
    with _ahead(run, distilled["manifest"]):
        run.step(
            "teacher",
            f"3. Train the teacher: {recipe.teacher_steps} steps of supervised fine-tuning",
            # On all questions, those that nothing is distilled from too.
            lambda: run.train("teacher", f"{models}/teacher", "sft", recipe.teacher_steps, recipe.teacher_rate, data__limit=0),
        )
        built = run.step(
            "build",
            "4. Build imperfect data: mask gold SQL, let the teacher fill the holes, score the result",
            lambda: build_imperfect(run.session(), until="score", as_json=False),
        )
    run.step(
        "start",
        f"5. Give the student a short start: {recipe.start_steps} steps of supervised fine-tuning",
        lambda: run.train_student("start"),
    )
    for method, title in (("sft", "6. From that start, supervised fine-tuning"), ("kid", "7. From that start, KID")):
        run.step(method, f"{title}: {recipe.student_steps} steps", partial(run.train_student, method))
    scores = run.step(
        "eval", "8. Execute their SQL on held-out questions", lambda: {name: _evaluate(run, name) for name in MODELS}
    )
    # Paths in a settings file are relative to it: the folder can be moved, and commands find it from inside.
    write_text(folder / FILE, template(run.settings(Path()) | {"train.student": "runs/start/best"}))
    return _summarise(run, built, scores)


def _ingest(few: Session, every: Session) -> dict[str, Any]:
    """What students are distilled from, whose result it is, then all questions: the teacher learns from the latest build."""
    distilled = build_imperfect(few, until="ingest", as_json=False)
    build_imperfect(every, until="ingest", as_json=False)
    return distilled


@contextmanager
def _ahead(run: Demo, digest: str) -> Iterator[None]:
    """Do on a second core what need not wait for the teacher (kidpipe/demo/ahead.py); the block ends when both are done.

    Whatever becomes of it, the demo does itself what it finds undone.
    """
    cores = processes.usable_cores()
    if run.recipe == QUICK or cores < 2 or (run.folder / SUMMARY).exists():
        yield
        return
    threads = torch.get_num_threads()
    # -P: a person's own files in the working folder are not ours.
    command = [sys.executable, "-P", "-m", "kidpipe.demo.ahead", str(run.folder), digest]
    with (run.folder / "ahead.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(command, stdout=_STDERR, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            torch.set_num_threads(max(1, min(threads, cores - 1)))
            yield
            child.wait()
        finally:
            torch.set_num_threads(threads)
            child.terminate()
            child.wait()


def _evaluate(run: Demo, name: str) -> dict[str, Any]:
    return kept_figures(evaluate(run.session(), name, name=name, as_json=False, quiet=True))


def _summarise(run: Demo, built: dict[str, Any], scores: dict[str, Any]) -> dict[str, Any]:
    store = Store(run.folder)
    before = (store.read_json(SUMMARY) or {}).get("seconds", {})
    for stage, seconds in built["seconds"].items():
        run.seconds[f"build.{stage}"] = seconds
    # A step that was finished before took its time then; the summary keeps that figure.
    reused = run.reused | {f"build.{stage}" for stage, count in built["ran"].items() if not count}
    seconds = {name: before.get(name, value) if name in reused else value for name, value in run.seconds.items()}
    summary = {
        "models": scores,
        "rewrite_rate": round(built["rewrite_rate"], 4),
        "imperfect": {name: round(built[name], 4) for name in ("changed_rows", "parse", "execute", "same_result", "stored_ids")},
        "seconds": seconds,
        "recipe": asdict(run.recipe),
    }
    store.write_json(SUMMARY, summary)
    return summary


def _print(run: Demo, summary: dict[str, Any]) -> None:
    console = run.session().console
    names = {"teacher": "teacher", "start": "student, start", "sft": "student, SFT", "kid": "student, KID"}
    print_scores(console, names, summary["models"])
    print_end(console, summary, run.folder / SUMMARY)
    console.print(f"look around: kidpipe inspect train:0 -c {run.folder / FILE}")
    console.print(f"change one thing: kidpipe plan --why --set mask.ratio=0.3 -c {run.folder / FILE}")
