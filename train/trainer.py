"""Settings, a Source and a student folder in; out/best, out/last and out/log.jsonl out. Only online methods load a teacher.

A run that was interrupted, however rudely, continues from its newest checkpoint and computes what it would have computed.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from kidcore.allocator import flat_memory
from kidcore.config import processes
from kidcore.config.digests import FileDigests
from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.interrupt import StopRequest
from kidcore.locks import LockKind
from kidcore.method.knowledge import GoldKnowledge, students_advantage
from kidcore.method.methods import METHODS
from kidcore.method.overlap import Overlap
from kidcore.models.backends.vllm_student import VllmStudent
from train.checkpoint import Checkpoints, RunProgress, commit_folder
from train.claim import claimed
from train.data.dataset import Dataset, Source, keeping_holdout
from train.data.distribute import MicroBatches
from train.data.examples import TrainingExample
from train.data.loader import Loader, choose_workers
from train.data.sampler import hashed
from train.data.shared_rows import drop_shared
from train.display import Display
from train.memory import expected_bytes, fitted, pack_size
from train.memory_watch import MemoryWatch
from train.online.online import Online, prepare_together
from train.online.rollouts import open_engine
from train.online.setup import OnlineSetup
from train.results import TrainResult, read_result, start_figures, write_result
from train.runlog import RunLog
from train.schedule import learning_rate, make_optimizer, settled
from train.step import Runner, RunObjective, StepMetrics
from train.student.adapters import adapter_state
from train.student.placement import load_and_place
from train.student.ranks import Ranks
from train.student.sharding import whole
from train.student.student import copy_student, save_student, student_state
from train.tracking import Trackers, check_trackers, open_trackers

_Make = Callable[[list[TrainingExample]], MicroBatches | list[TrainingExample]]
_LOG = logging.getLogger(__name__)


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
    teacher: GoldKnowledge | None = None,
    digests: FileDigests | None = None,
    lock: LockKind = "auto",
) -> TrainResult:
    """Train, or continue, the run in folder `out`.

    Args:
        settings: the run's own section of the configuration.
        source: the build to train on.
        student_path: folder of the model to start from.
        out: folder of the run; refused when it holds a run with another identity.
        device: where to train, when one process trains alone.
        ranks: the processes that train together, from train.student.ranks.open_ranks.
        verbose: say more through logging.
        progress: show a progress bar on a terminal.
        online: the teacher of a method that asks one during training.
        companions: a folder whose files are saved beside the student's weights, such as its prompt.
        teacher: what the teacher thinks of gold, to hold the student against before it starts.
        digests: remembers those of weight files, so that the student's gigabytes are not read for its identity alone.
        lock: how others are kept out of the folder.
    """
    assert METHODS[settings.method].is_online == (online is not None), "online methods, and no others, need an OnlineSetup"
    ranks = ranks or Ranks(device=torch.device(device))
    settings = settled(settings, student_path)
    check_trackers(settings)
    heard = logging.DEBUG if verbose else logging.INFO
    logging.getLogger("train").setLevel(heard if ranks.is_first else logging.CRITICAL)
    workers = choose_workers(settings.loader_workers, processes.local_world_size())
    with flat_memory(), claimed(out, settings, source, student_path, ranks, online, digests, lock):
        checkpoints = Checkpoints(out / "checkpoints", settings.pack_tokens)
        finished = read_result(out)
        if finished is None:
            settings = fitted(settings, student_path, ranks, checkpoints.pack_tokens(), source.longest)
            settings = keeping_holdout(settings, checkpoints.held_out())
            with (
                StopRequest() as stop,
                open_trackers(settings, out, is_first=ranks.is_first) as trackers,
                Loader(workers) as loader,
                open_engine(settings, online, student_path, ranks.device) as engine,
            ):
                try:
                    # Nothing here holds on to it: its model and moments are given back when memory is.
                    finished = _Session(
                        settings, source, student_path, out, ranks, checkpoints, loader, online, engine, companions, trackers
                    ).train(stop, teacher, show=progress)
                except KeyboardInterrupt:
                    _LOG.warning("stopped; %s", _outlook(checkpoints))
                    raise
        else:
            _LOG.info("this run is finished; nothing to do: %s", out)
        if ranks.is_first:
            checkpoints.clear()
        if processes.local_rank() == 0 and source.cache:
            drop_shared(source.cache)
        return finished


def _outlook(checkpoints: Checkpoints) -> str:
    """What a run that was stopped can go on from."""
    step = checkpoints.newest_step()
    saved = f"step {step} is saved: the same command continues from there"
    return saved if step else "nothing was saved yet: the same command begins anew"


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
        trackers: Trackers,
    ) -> None:
        torch.manual_seed(settings.seed)
        self._settings, self._origin, self._out, self._ranks = settings, origin, out, ranks
        self._checkpoints, self._loader, self._companions, self._trackers = checkpoints, loader, companions, trackers
        is_shared = processes.local_world_size() > 1 or loader.num_workers > 1
        self._data, self._eos_id = Dataset(source, settings, is_shared), source.eos_id
        self._gold: list[list[TrainingExample]] = []
        self._known: GoldKnowledge | None = None
        self._overlap: Overlap | None = None
        placed = load_and_place(origin, settings, ranks)
        self._model, dtype = placed.model, placed.autocast_dtype
        self._runner = Runner(self._model, ranks.device, placed.layout, pack_size(settings), dtype, ranks, placed.sharded)
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
        progress = checkpoints.load(self._model, self._optimizer, ranks.device) or fresh
        self._progress = replace(progress, pack_tokens=pack_size(settings), held_out=self._data.num_held_out)
        self._watch = MemoryWatch(expected_bytes(settings, origin, ranks, source.longest), ranks.device)

    def train(self, stop: StopRequest, teacher: GoldKnowledge | None, *, show: bool) -> TrainResult:
        """Run all steps that are left, and write the result."""
        self._say_where()
        first, nll, is_first = self._progress.step, math.nan, self._ranks.is_first
        display = Display(self._num_steps, first, show=show and is_first)
        path = self._out / "log.jsonl" if is_first else None
        with RunLog(path, self._progress.log_bytes, self._trackers) as log, display:
            if not first:
                self._look_at_start(log, teacher)
            display.evaluated(0, self._progress.start_nll)
            # An online method turns examples into something else before they are packed.
            make: _Make = self._runner.batcher.cut if self._online is None else list
            stream = self._loader.steps(self._data, first, self._num_steps, make)
            saved_at = began = time.perf_counter()
            stop.is_patient = True
            for step, item in enumerate(stream, start=first + 1):
                loaded = time.perf_counter()
                line = self._step(step, item)
                ended = time.perf_counter()
                spent = ended - began
                self._progress = replace(self._progress, step=step, seconds=self._progress.seconds + spent)
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
                    self._keep_best(nll)
                if step < self._num_steps and self._save_if_due(stop, saved_at, log):
                    saved_at = time.perf_counter()
                began = time.perf_counter()
            log.commit()
        self._save("last")
        return self._finish(nll)

    def _say_where(self) -> None:
        step = self._progress.step
        if step:
            _LOG.info("continuing from step %d of %d%s", step, self._num_steps, self._data.said_of_holdout)
        elif self._ranks.is_first and (self._out / "log.jsonl").exists():
            _LOG.info("nothing was saved of this run yet: beginning at its start")
        if self._ranks.is_first and (said := self._data.said_of_views):
            _LOG.info("%s", said)

    def _look_at_start(self, log: RunLog, teacher: GoldKnowledge | None) -> None:
        """Evaluate the student as it was given: what training has to be better than."""
        nll = self._evaluate(0, log)
        self._progress = replace(self._progress, start_nll=nll, best_nll=nll if math.isfinite(nll) else math.inf)
        if (student := self._known) is not None:
            _LOG.info("the student on gold, %d held-out questions: %s", student.answers, student)
            if teacher is not None:
                _LOG.info("the teacher on gold, %d questions: %s", teacher.answers, teacher)
                for advantage in students_advantage(student, teacher):
                    _LOG.warning("%s", advantage)
        if self._overlap is not None:
            _LOG.info("on the holdout %s", self._overlap)

    def _keep_best(self, nll: float) -> None:
        if nll < self._progress.best_nll or not self._data.num_held_out:
            self._progress = replace(self._progress, best_step=self._progress.step, best_nll=nll)
            self._save("best")

    def _save_if_due(self, stop: StopRequest, saved_at: float, log: RunLog) -> bool:
        """Write a checkpoint by steps, by time or because the run shall stop; raises KeyboardInterrupt after the last."""
        minutes = (time.perf_counter() - saved_at) / 60
        is_late = self._ranks.is_first and 0 < self._settings.save_minutes <= minutes
        # Clocks and signals differ between processes, and all of them have to save together.
        stopping, late = self._ranks.sum(torch.tensor([float(stop.is_made), float(is_late)])).tolist()
        if not (stopping or late or self._progress.step % self._save_every == 0):
            return False
        self._progress = replace(self._progress, log_bytes=log.commit())
        self._checkpoints.save(self._progress, self._model, self._optimizer, self._ranks)
        if stopping:
            raise KeyboardInterrupt
        return True

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
        self._watch.look(step)
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
        # Read once: of a large store that takes longer than an evaluation.
        self._gold = self._gold or self._data.held_out(self._ranks.rank / self._ranks.world_size)
        examples = self._online.held_out(iter(self._gold)) if self._online else iter(self._gold)
        figures = self._runner.evaluate(examples, self._recipe, self._eos_id)
        assert figures.knowledge is not None
        self._known, self._overlap = figures.knowledge, figures.overlap
        line = {"kind": "eval", "step": step, **self._figures(figures), "on_gold": figures.knowledge.as_json()}
        line |= {} if figures.overlap is None else {"overlap": figures.overlap.as_json()}
        log.write(line | {"seconds": time.perf_counter() - began})
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
        is_first, origin, extra = self._ranks.is_first, self._origin, self._companions
        state = student_state(self._model, origin, keep=is_first)
        adapter = adapter_state(self._model, keep=is_first)
        if is_first:
            commit_folder(self._out / name, lambda folder: save_student(self._model, state, origin, folder, extra, adapter))

    def _finish(self, final_nll: float) -> TrainResult:
        done, best, last = self._progress, self._out / "best", self._out / "last"
        if not self._ranks.is_first:
            return self._result(final_nll, best, last)
        if not done.best_step and self._data.num_held_out:
            commit_folder(best, lambda folder: copy_student(self._origin, folder, self._companions))
        if final_nll > done.start_nll:
            _LOG.warning(
                "the student ends worse than it began: holdout NLL a token %.4f, and %.4f at the start; best is %s. "
                "A lower train.learning_rate (now %g) or fewer epochs may help",
                *(
                    final_nll,
                    done.start_nll,
                    f"step {done.best_step}" if done.best_step else "the start",
                    self._settings.learning_rate,
                ),
            )
        result = self._result(final_nll, best, last)
        write_result(self._out, result)
        return result

    def _result(self, final_nll: float, best: Path, last: Path) -> TrainResult:
        done = self._progress
        nlls = (done.best_nll, final_nll, done.start_nll)
        (start, first), known, overlap = start_figures(self._out), self._known, self._overlap
        return TrainResult(self._num_steps, done.best_step, *nlls, done.seconds, best, last, False, start, known, first, overlap)
