"""Settings, a Source and a student folder in; out/best, out/last and out/log.jsonl out. Only online methods load a teacher.

A run that was interrupted, however rudely, continues from its newest checkpoint and computes what it would have computed.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kidcore.config import processes
from kidcore.config.config import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.locks import hold
from kidcore.method.methods import METHODS
from kidcore.models.backends.vllm_student import VllmStudent
from kidcore.models.sources import resolve
from train.checkpoint import Checkpoints, RunProgress, clean_checkpoints, commit_folder, recover_folder, write_json
from train.data.dataset import Dataset, Source
from train.data.distribute import MicroBatches
from train.data.examples import TrainingExample
from train.data.loader import Loader, choose_workers
from train.data.sampler import hashed
from train.display import Display
from train.identity import claim_folder, run_identity
from train.online.online import Online, prepare_together
from train.online.rollouts import open_engine
from train.online.setup import OnlineSetup
from train.runlog import RunLog
from train.schedule import learning_rate, make_optimizer
from train.step import Runner, RunObjective, StepMetrics
from train.student.placement import place
from train.student.ranks import Ranks
from train.student.sharding import whole
from train.student.student import load_student, save_student, student_state

_Make = Callable[[list[TrainingExample]], MicroBatches | list[TrainingExample]]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run came to. `best_nll` is the gold NLL per token on the holdout, nan without a holdout."""

    steps: int
    best_step: int
    best_nll: float
    final_nll: float
    seconds: float
    """Training time over all interruptions, without start-up and evaluation."""
    best: Path
    last: Path
    was_finished: bool
    """Nothing was done: the run had been finished before."""


def run(
    settings: TrainSettings,
    source: Source,
    student_path: Path,
    out: Path,
    *,
    device: str | torch.device = "cpu",
    ranks: Ranks | None = None,
    verbose: bool = False,
    progress: bool = True,
    online: OnlineSetup | None = None,
    companions: Path | None = None,
) -> TrainResult:
    """Train, or continue, the run in folder `out`.

    Args:
        settings: the run's own section of the configuration.
        source: the build to train on.
        student_path: folder of the model to start from.
        out: folder of the run; refused when it holds a run with another identity.
        device: where to train, when one process trains alone.
        ranks: the processes that train together, from train.ranks.open_ranks.
        verbose: say more through logging.
        progress: show a progress bar on a terminal.
        online: the teacher of a method that asks one during training.
        companions: a folder whose files are saved beside the student's weights, such as its prompt.
    """
    assert METHODS[settings.method].is_online == (online is not None), "online methods, and no others, need an OnlineSetup"
    ranks = ranks or Ranks(device=torch.device(device))
    heard = logging.DEBUG if verbose else logging.INFO
    logging.getLogger("train").setLevel(heard if ranks.is_first else logging.CRITICAL)
    workers = choose_workers(settings.loader_workers, processes.local_world_size())
    with _claimed(out, settings, source, student_path, ranks, online):
        checkpoints = Checkpoints(out / "checkpoints")
        finished = _read_result(out)
        if finished is None:
            with Loader(workers) as loader, open_engine(settings, online, student_path, ranks.device) as engine:
                session = _Session(settings, source, student_path, out, ranks, checkpoints, loader, online, engine, companions)
                finished = session.train(show=progress)
        else:
            _LOG.info("this run is finished; nothing to do: %s", out)
        if ranks.is_first:
            checkpoints.clear()
        return finished


@contextmanager
def _claimed(
    out: Path, settings: TrainSettings, source: Source, student_path: Path, ranks: Ranks, online: OnlineSetup | None
) -> Iterator[None]:
    """Make the folder this run's, and mend what a kill left half-done; the first process does it for all."""
    if not ranks.is_first:
        ranks.wait()
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        asked = online.identity(settings) if online else None
        claim_folder(out, run_identity(settings, source.digest, resolve(str(student_path)).identity, asked))
        for name in ("best", "last"):
            recover_folder(out / name)
        clean_checkpoints(out / "checkpoints")
        ranks.wait()
        yield


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep a second trainer out of the folder; the lock goes with the process, however it ends."""
    with hold(out / ".lock", busy="another process is training in this folder"):
        yield


def _read_result(out: Path) -> TrainResult | None:
    path = out / "result.json"
    if not path.exists():
        return None
    figures = json.loads(path.read_text(encoding="utf-8"))
    figures = {name: math.nan if value is None else value for name, value in figures.items()}
    return TrainResult(**figures, best=out / "best", last=out / "last", was_finished=True)


def _as_they_are(examples: list[TrainingExample]) -> list[TrainingExample]:
    """Examples that an online method turns into something else before they are packed."""
    return examples


class _Session:
    """One process's share of a run: from the newest checkpoint to the end."""

    def __init__(
        self,
        settings: TrainSettings,
        source: Source,
        origin: Path,
        out: Path,
        ranks: Ranks,
        checkpoints: Checkpoints,
        loader: Loader,
        online: OnlineSetup | None,
        engine: VllmStudent | None,
        companions: Path | None,
    ) -> None:
        torch.manual_seed(settings.seed)
        self._settings, self._origin, self._out, self._ranks = settings, origin, out, ranks
        self._checkpoints, self._loader, self._companions = checkpoints, loader, companions
        self._data = Dataset(source, settings)
        placed = place(load_student(origin, torch.device("cpu"), settings), settings, ranks)
        self._model, dtype = placed.model, placed.autocast_dtype
        self._runner = Runner(self._model, ranks.device, placed.layout, settings.pack_tokens, dtype, ranks, placed.sharded)
        self._recipe = RunObjective.of(settings)
        self._optimizer = make_optimizer(self._model, settings)
        self._num_steps = self._data.num_steps
        self._online = None
        if online is not None:
            self._online = Online(
                settings,
                online,
                placed.generator,
                self._num_steps,
                device=ranks.device,
                autocast_dtype=dtype,
                refresh=placed.refresh,
                engine=engine,
            )
        self._eval_every = settings.eval_every or self._data.steps_per_epoch
        self._save_every = settings.save_every or self._eval_every
        fresh = RunProgress(step=0, best_step=0, best_nll=math.inf, log_bytes=0, seconds=0.0)
        self._progress = checkpoints.load(self._model, self._optimizer, ranks.device) or fresh

    def train(self, *, show: bool) -> TrainResult:
        """Run all steps that are left, and write the result."""
        done = self._progress
        if done.step:
            _LOG.info("continuing from step %d of %d", done.step, self._num_steps)
        seconds, nll = done.seconds, math.nan
        best_step, best_nll = done.best_step, done.best_nll
        is_first = self._ranks.is_first
        display = Display(self._num_steps, done.step, show=show and is_first)
        with RunLog(self._out / "log.jsonl" if is_first else None, done.log_bytes) as log, display:
            make: _Make = self._runner.batcher.cut if self._online is None else _as_they_are
            stream = self._loader.steps(self._data, done.step, self._num_steps, make)
            began = time.perf_counter()
            for step, item in enumerate(stream, start=done.step + 1):
                loaded = time.perf_counter()
                line = self._step(step, item)
                ended = time.perf_counter()
                spent, seconds = ended - began, seconds + ended - began
                line |= {
                    "loader_seconds": loaded - began,
                    "seconds": spent,
                    "examples_per_second": self._settings.batch_size / spent,
                }
                log.write(line)
                display.step(step, float(line["loss"]))
                if step % self._eval_every == 0 or step == self._num_steps:
                    nll = self._evaluate(step, log)
                    display.evaluated(step, nll)
                    if nll < best_nll or not self._data.num_held_out:
                        best_step, best_nll = step, nll
                        self._save("best")
                if step % self._save_every == 0 and step < self._num_steps:
                    self._progress = RunProgress(step, best_step, best_nll, log.commit(), seconds)
                    self._checkpoints.save(self._progress, self._model, self._optimizer, self._ranks)
                began = time.perf_counter()
            log.commit()
        self._save("last")
        return self._finish(best_step, best_nll, nll, seconds)

    def _step(self, step: int, item: MicroBatches | list[TrainingExample]) -> dict[str, float | int | str]:
        """One optimiser step; `step` counts from 1."""
        rate = learning_rate(self._settings, step - 1, self._num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        share, extra = self._share(step, item)
        figures = self._runner.accumulate_share(share, self._recipe, seed=hashed(self._settings.seed, step))
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._settings.clip)))
        if not math.isfinite(norm):
            raise KidpipeError(
                f"the gradient is not finite at step {step}",
                where=str(self._out / "log.jsonl"),
                fix="lower train.learning_rate, lengthen train.warmup, or set train.dtype = float32",
            )
        self._optimizer.step()
        epoch = step * self._settings.batch_size / self._data.num_examples
        named: dict[str, float | int | str] = {"kind": "step", "step": step, "epoch": epoch, "examples": share.digest}
        return {**named, **self._figures(figures), **extra, "lr": rate, "grad_norm": norm}

    def _share(self, step: int, item: MicroBatches | list[TrainingExample]) -> tuple[MicroBatches, Mapping[str, float | int]]:
        """What this process does of a step, and what it took to make."""
        if isinstance(item, MicroBatches):
            return item, {}
        assert self._online is not None
        prepared = prepare_together(self._online, self._ranks, step, item)
        return self._runner.batcher.cut(prepared.examples), prepared.figures

    def _evaluate(self, step: int, log: RunLog) -> float:
        """Gold NLL per token on the holdout; nan without one."""
        if not self._data.num_held_out:
            return math.nan
        began = time.perf_counter()
        gold = self._data.held_out()
        figures = self._runner.evaluate(self._online.held_out(gold) if self._online else gold, self._recipe)
        log.write({"kind": "eval", "step": step, **self._figures(figures), "seconds": time.perf_counter() - began})
        return figures.mle

    def _figures(self, figures: StepMetrics) -> dict[str, float | int | str]:
        return {
            "loss": self._recipe.loss(figures.mle, figures.kd),
            "gold_nll": figures.mle,
            "divergence": figures.kd,
            "gold_tokens": figures.counts.mle,
            "teacher_tokens": figures.counts.kd,
            "trunk_tokens": figures.trunk_tokens,
            "naive_tokens": figures.naive_tokens,
            "packs": figures.packs,
        }

    def _save(self, name: str) -> None:
        state = student_state(self._model, self._origin, keep=self._ranks.is_first)
        if self._ranks.is_first:
            commit_folder(
                self._out / name, lambda folder: save_student(self._model, state, self._origin, folder, self._companions)
            )

    def _finish(self, best_step: int, best_nll: float, final_nll: float, seconds: float) -> TrainResult:
        figures = {"steps": self._num_steps, "best_step": best_step, "best_nll": best_nll, "final_nll": final_nll}
        best, last = self._out / "best", self._out / "last"
        result = TrainResult(self._num_steps, best_step, best_nll, final_nll, seconds, best, last, was_finished=False)
        stored = {name: asdict(result)[name] for name in (*figures, "seconds")}
        if self._ranks.is_first:
            # JSON has no nan; null stands for it.
            plain = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in stored.items()}
            write_json(self._out / "result.json", plain)
        return result
