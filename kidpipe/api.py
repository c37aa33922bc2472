"""The Python interface: build, train, evaluate, judge one prediction, and read what was stored, without a command line.

    import kidpipe

    project = kidpipe.Project({"data.path": "spider", "teacher.model": "TEACHER", "train.student": "STUDENT"})
    built = project.build()
    run = project.train({"train.method": "kid"})
    report = project.evaluate(run.best)
    frame = project.frame("rewrite")

Nothing is printed unless `show=True`, and nothing outside the objects changes: no logging handlers, no environment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from eval.evaluate import VERDICTS_FILE
from eval.verdicts import Verdict, judge_one
from kidcore.config.config import Config
from kidcore.config.config_load import load_config
from kidcore.store.frames import read_frame
from kidcore.store.stages import STAGES
from kidpipe.commands.build import build_imperfect
from kidpipe.commands.evaluate import evaluate
from kidpipe.commands.session import Session
from kidpipe.commands.train import train

Settings = Mapping[str, object]
"""`section.field` to value, as in kidpipe.toml."""


@dataclass(frozen=True)
class Build:
    """What a build made. `ran` and `reused` count shards by stage; `counts` are rows in, out and set aside by stage."""

    manifest: str
    """Digest: `Project.train(manifest=...)` takes it."""
    ran: Mapping[str, int]
    reused: Mapping[str, int]
    seconds: Mapping[str, float]
    counts: Mapping[str, Mapping[str, Any]]
    teacher_on_gold: Mapping[str, Any] | None
    """What the teacher thinks of gold SQL: `nll` a token without the end of sequence, `first_choice` (share), `stop_nll` and
    `stop_probability` of the end of sequence, and `warnings` in words. None where it has not scored gold."""


@dataclass(frozen=True)
class Run:
    """A finished student run; the NLLs are per gold token on the holdout."""

    folder: Path
    steps: int
    best_step: int
    best_nll: float
    final_nll: float
    seconds: float
    was_finished: bool
    """Nothing was done: the same run had been finished before."""

    @property
    def best(self) -> Path:
        """The student at its best step, a Hugging Face folder."""
        return self.folder / "best"


@dataclass(frozen=True)
class EvalReport:
    """An evaluation. `summary` is what `kidpipe eval --json` prints."""

    summary: Mapping[str, Any]
    folder: Path

    @property
    def verdicts(self) -> pl.DataFrame:
        """One row per question."""
        return pl.read_parquet(self.folder / VERDICTS_FILE, glob=False)

    def score(self, metric: str = "ex_bag") -> float:
        """A metric over all judged questions, 0 to 1."""
        return float(self.summary["metrics"][metric]["all"]["value"])


class Project:
    """A configuration and its store.

    Args:
        settings: `section.field` to value; they win over the file and the environment.
        file: a kidpipe.toml; None = no file is read.
        show: print what the commands print, and progress on a terminal.

    Raises:
        KidpipeError: an unknown setting or a value out of range.
    """

    def __init__(self, settings: Settings | None = None, *, file: Path | None = None, show: bool = False) -> None:
        self._settings, self._file, self._show = dict(settings or {}), file, show
        self._session = self._open({})

    @property
    def config(self) -> Config:
        """The resolved configuration, frozen."""
        return self._session.config

    def build(self, settings: Settings | None = None, *, until: str = "score") -> Build:
        """Run what is stale up to stage `until`. `settings` change the project's for this call."""
        summary = build_imperfect(self._open(settings), until=until, as_json=False)
        return Build(*(summary[name] for name in ("manifest", "ran", "reused", "seconds", "counts", "teacher_on_gold")))

    def train(self, settings: Settings | None = None, *, name: str = "", manifest: str = "") -> Run:
        """Train a student on the latest build, or on the one whose digest begins with `manifest`."""
        summary = train(self._open(settings), name=name, as_json=False, digest=manifest)
        figures = {field: summary[field] for field in ("steps", "best_step", "best_nll", "final_nll", "seconds", "was_finished")}
        return Run(folder=Path(summary["run"]), **figures)

    def evaluate(
        self,
        model: str | Path = "",
        settings: Settings | None = None,
        *,
        name: str = "",
        predictions: Path | None = None,
        split: str = "dev",
    ) -> EvalReport:
        """Generate SQL with `model` (default: the newest finished run), or read a file of predictions, and judge it."""
        session = self._open(settings)
        summary = evaluate(session, str(model), name=name, as_json=False, predictions_file=predictions, split=split)
        return EvalReport(summary, Path(summary["folder"]))

    def frame(self, stage: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of a stage of the latest build.

        Raises:
            KidpipeError: nothing is built.
            ValueError: there is no such stage.
        """
        if stage not in STAGES:
            raise ValueError(f"no stage is called {stage!r}: {', '.join(STAGES)}")
        return read_frame(self._session.store, self._session.manifest(), stage, columns)

    def _open(self, settings: Settings | None) -> Session:
        loaded = load_config(self._file, self._settings | dict(settings or {}), use_file=self._file is not None)
        return Session(loaded, verbose=False, is_silent=not self._show)


def judge(predicted_sql: str, gold_sql: str, database: Path) -> Verdict:
    """The verdict on one prediction, executed in the sandbox.

    Starts worker processes of its own: for many predictions write them to a file and use `Project.evaluate`.
    """
    return judge_one(gold_sql, predicted_sql, Path(database))
