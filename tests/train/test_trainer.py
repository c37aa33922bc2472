"""Whole runs of a small student: learning, resuming after kill -9, refusing another run's folder."""

import dataclasses
import json
import logging
import random
import resource
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.method.knowledge import GoldKnowledge
from kidcore.method.overlap import Overlap
from tests.forks import start
from tests.train.small import EOS, make_examples, make_student, save_small_student, write_build
from tests.train.stopping import stopped
from tests.train.together import finish, num_lines, train_and_die
from train.data.dataset import Dataset, Source, keeping_holdout
from train.data.examples import TrainingExample
from train.step import Runner, RunObjective
from train.student.layout import choose_layout
from train.student.placement import Placed, load_and_place
from train.trainer import run

TIMES = ("seconds", "loader_seconds", "examples_per_second")


def config(**changes: object) -> TrainSettings:
    values: dict[str, object] = {"method": "kid", "batch_size": 8, "epochs": 3, "holdout": 0.1, "learning_rate": 1e-2}
    return TrainSettings.model_validate(values | changes)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path]:
    folder = tmp_path_factory.mktemp("build")
    return write_build(folder, parts=4, rows=24, learnable=True), save_small_student(folder / "student")


def lines(out: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    text = (out / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in text]


@pytest.mark.parametrize("method", ["sft", "fkd", "rkd", "f-distill", "kid"])
def test_each_method_learns(build: tuple[Source, Path], tmp_path: Path, method: str) -> None:
    source, student = build
    result = run(config(method=method, epochs=6), source, student, tmp_path / "run")
    log = lines(tmp_path / "run")
    steps = [line for line in log if line["kind"] == "step"]
    evals = [line for line in log if line["kind"] == "eval"]
    assert [line["step"] for line in steps] == list(range(1, result.steps + 1))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert evals[-1]["gold_nll"] < steps[0]["gold_nll"]
    assert result.best_nll == min(line["gold_nll"] for line in evals)
    assert result.best_step == next(line["step"] for line in evals if line["gold_nll"] == result.best_nll)
    assert (steps[0]["teacher_tokens"] > 0) == (method != "sft")
    for folder in (result.best, result.last):
        assert AutoModelForCausalLM.from_pretrained(folder).config.model_type == "qwen2"
        assert (folder / "tokenizer.json").read_text() == "{}"


def test_a_run_lets_go_of_its_student_before_memory_is_given_back(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is freed behind that stays with the process, and an evaluation in it has so much less."""
    placed: list[weakref.ref[nn.Module]] = []
    alive: list[bool] = []

    def place(*arguments: Any) -> Placed:
        found = load_and_place(*arguments)
        placed.append(weakref.ref(found.model))
        return found

    @contextmanager
    def memory() -> Iterator[None]:
        yield
        alive.extend(model() is not None for model in placed)

    monkeypatch.setattr("train.trainer.load_and_place", place)
    monkeypatch.setattr("train.trainer.flat_memory", memory)
    run(config(epochs=1), *build, tmp_path / "run")
    assert alive == [False]


def test_a_finished_run_does_nothing(build: tuple[Source, Path], tmp_path: Path) -> None:
    source, student = build
    first = run(config(), source, student, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.name != ".lock" and path.is_file()}
    second = run(config(), source, student, tmp_path / "run")
    assert second.was_finished
    assert not first.was_finished
    assert (second.best_nll, second.best_step, second.steps) == (first.best_nll, first.best_step, first.steps)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.engine
def test_killed_at_random_moments_equals_uninterrupted(build: tuple[Source, Path], tmp_path: Path) -> None:
    folder, whole, killed = build[1].parent, tmp_path / "whole", tmp_path / "killed"
    changes: dict[str, object] = {"batch_size": 8, "epochs": 2, "save_every": 2, "eval_every": 4}
    finish(1, "train", folder, whole, **changes)
    rng = random.Random(0)
    for target in sorted(rng.sample(range(1, num_lines(whole / "log.jsonl") - 2), 4)):
        # Somewhere in the next step, evaluation or checkpoint.
        with start(train_and_die, folder, killed, changes, target, rng.randrange(3000)) as child:
            assert child.wait() == -signal.SIGKILL, child.err
    finish(1, "train", folder, killed, **changes)
    assert lines(killed) == lines(whole)
    for name in ("best", "last"):
        assert (killed / name / "model.safetensors").read_bytes() == (whole / name / "model.safetensors").read_bytes()
    left, right = (json.loads((out / "result.json").read_text()) for out in (killed, whole))
    assert left | {"seconds": 0} == right | {"seconds": 0}
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in whole.iterdir())


def interrupted(build: tuple[Source, Path], out: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """Leave a run in `out` that stopped after its first checkpoint."""
    source, student = build
    with stopped(monkeypatch):
        run(config(save_every=1, eval_every=3, **changes), source, student, out)


def test_another_run_is_refused_with_what_differs(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, student = build
    out = tmp_path / "run"
    interrupted(build, out, monkeypatch)
    with pytest.raises(KidpipeError) as caught:
        run(config(save_every=1, eval_every=3, learning_rate=0.5), source, student, out)
    assert "train.learning_rate 0.01 -> 0.5" in str(caught.value)
    assert f"rm -r {out}" in str(caught.value)
    with pytest.raises(KidpipeError, match=r"reads of the build.* digest-0 -> other"):
        run(config(save_every=1, eval_every=3), Source(source.parts, source.eos_id, "other"), student, out)
    other = save_small_student(tmp_path / "other", seed=1)
    with pytest.raises(KidpipeError, match="student local:"):
        run(config(save_every=1, eval_every=3), source, other, out)


@pytest.mark.slow
def test_runtime_settings_may_change_on_resume(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another pack size changes the rounding only; the examples and the steps stay."""
    source, student = build
    interrupted(build, tmp_path / "run", monkeypatch)
    resumed = run(config(eval_every=3, pack_tokens=64, packing="plain"), source, student, tmp_path / "run")
    whole = run(config(eval_every=3), source, student, tmp_path / "whole")
    assert resumed.best_nll == pytest.approx(whole.best_nll, rel=1e-3)
    for mine, theirs in zip(lines(tmp_path / "run"), lines(tmp_path / "whole"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert mine["gold_tokens"] == theirs["gold_tokens"]


def test_a_run_that_was_begun_without_a_cap_on_its_holdout_goes_on_without(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As kidpipe 0.1 wrote it: neither run.json nor a checkpoint says how many are held out."""
    source, student = build
    out, steps = tmp_path / "run", {"max_steps": 5, "save_every": 1, "eval_every": 3}
    interrupted(build, out, monkeypatch, max_steps=5)
    for path in (out / "checkpoints").glob("*/progress.json"):
        path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "held_out"}))
    said = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(said | {"settings": said["settings"] | {"holdout_most": 2}}))
    monkeypatch.setattr("train.data.dataset._USUAL", 2)
    with caplog.at_level(logging.INFO):
        resumed = run(config(**steps, holdout_most=2), source, student, out)
    whole = run(config(**steps), source, student, tmp_path / "whole")
    assert "it goes on keeping" in caplog.text
    assert lines(out) == lines(tmp_path / "whole")
    assert (resumed.best_nll, resumed.start_nll) == (whole.best_nll, whole.start_nll)
    capped = config(holdout_most=2)
    assert keeping_holdout(capped, 0) == keeping_holdout(capped, 2) == capped
    assert Dataset(source, keeping_holdout(capped, 3)).num_held_out > 2


def test_a_checkpoint_that_cannot_be_read_is_named(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, student = build
    out = tmp_path / "run"
    interrupted(build, out, monkeypatch)
    folders = sorted((out / "checkpoints").iterdir())
    assert len(folders) == 2
    (folders[-1] / "optimizer.pt").write_bytes(b"short")
    with pytest.raises(KidpipeError, match="checkpoint cannot be read") as caught:
        run(config(save_every=1, eval_every=3), source, student, out)
    assert f"rm -r {folders[-1]}" in caught.value.fix


def test_two_trainers_in_one_folder_are_refused(build: tuple[Source, Path], tmp_path: Path) -> None:
    source, student = build
    (tmp_path / "run").mkdir()
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(KidpipeError, match="another process is training"):
            run(config(), source, student, tmp_path / "run")
        child.kill()


def test_without_a_holdout_the_last_is_the_best(build: tuple[Source, Path], tmp_path: Path) -> None:
    source, student = build
    result = run(config(holdout=0.0, epochs=1), source, student, tmp_path / "run")
    assert result.best_step == result.steps
    assert (result.best / "model.safetensors").read_bytes() == (result.last / "model.safetensors").read_bytes()
    assert run(config(holdout=0.0, epochs=1), source, student, tmp_path / "run").was_finished


@pytest.mark.parametrize("layout", ["tree", "plain", "none"])
def test_accumulation_does_not_change_an_sgd_step(layout: Any) -> None:
    """8 examples in one pack, in several, or one at a time: one step, since sums are divided by global counts."""
    import numpy as np

    examples = make_examples(np.random.default_rng(3), 3, 3, 2)
    recipe = RunObjective.of(config())
    results = []
    for pack_tokens in (10_000, 150, 1):
        model = make_student()
        runner = Runner(model, torch.device("cpu"), layout, pack_tokens, None)
        figures = runner.accumulate(examples, recipe)
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        results.append((figures, torch.cat([p.detach().flatten() for p in model.parameters()])))
    assert results[0][0].packs < results[1][0].packs < results[2][0].packs
    for figures, weights in results[1:]:
        assert figures.mle == pytest.approx(results[0][0].mle, rel=1e-5)
        assert figures.kd == pytest.approx(results[0][0].kd, rel=1e-5)
        assert (weights - results[0][1]).norm() < 1e-6 * weights.norm()


def test_float16_is_refused(build: tuple[Source, Path], tmp_path: Path) -> None:
    source, student = build
    with pytest.raises(KidpipeError, match="float16"):
        run(config(dtype="float16"), source, student, tmp_path / "run")


def test_bfloat16_trains_and_keeps_float32_weights(build: tuple[Source, Path], tmp_path: Path) -> None:
    source, student = build
    result = run(config(method="sft", dtype="bfloat16", epochs=4), source, student, tmp_path / "run")
    log = [line for line in lines(tmp_path / "run") if line["kind"] == "step"]
    assert log[-1]["loss"] < log[0]["loss"]
    assert AutoModelForCausalLM.from_pretrained(result.last).dtype == torch.float32


def test_tied_weights_are_written_once(build: tuple[Source, Path], tmp_path: Path) -> None:
    """In a precision other than the trained one too, where every weight is converted by itself."""
    student = save_small_student(tmp_path / "student")
    make_student().to(torch.bfloat16).save_pretrained(student)
    result = run(config(epochs=1), build[0], student, tmp_path / "run")
    names = load_file(result.last / "model.safetensors").keys()
    assert names == load_file(student / "model.safetensors").keys()
    assert "lm_head.weight" not in names


def test_a_student_that_is_not_there(build: tuple[Source, Path], tmp_path: Path) -> None:
    with pytest.raises(KidpipeError):
        run(config(), build[0], tmp_path / "nowhere", tmp_path / "run")


def test_a_full_disk_is_said_and_the_run_goes_on_afterwards(build: tuple[Source, Path], tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writes fail in the same places."""
    source, student = build
    settings = config(eval_every=4, save_every=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(KidpipeError, match="could not be saved") as caught:
            run(settings, source, student, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "make room" in caught.value.fix
    run(settings, source, student, tmp_path / "run")
    run(settings, source, student, tmp_path / "whole")
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_the_start_is_step_0_and_a_run_that_ruins_it_says_so(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, student = build
    ruinous = config(method="sft", learning_rate=1.0, max_steps=4)
    monkeypatch.setattr(logging.getLogger("train"), "propagate", True)
    with caplog.at_level(logging.INFO):
        result = run(ruinous, source, student, tmp_path / "run")
    first = lines(tmp_path / "run")[0]
    assert (first["kind"], first["step"], first["gold_nll"]) == ("eval", 0, result.start_nll)
    assert (result.best_step, result.best_nll) == (0, result.start_nll)
    assert result.final_nll > result.start_nll
    assert "ends worse than it began" in caplog.text
    # best is the student as it was given, to the byte.
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (result.best / name).read_bytes() == (student / name).read_bytes()
    again = run(ruinous, source, student, tmp_path / "run")
    assert (again.start_nll, again.best_step) == (result.start_nll, 0)


def test_a_run_that_helps_keeps_its_start_in_mind(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, student = build
    monkeypatch.setattr(logging.getLogger("train"), "propagate", True)
    interrupted(build, tmp_path / "run", monkeypatch)
    with caplog.at_level(logging.INFO):
        result = run(config(save_every=1, eval_every=3), source, student, tmp_path / "run")
    assert result.final_nll < result.start_nll == lines(tmp_path / "run")[0]["gold_nll"]
    assert f"({result.start_nll:.3f} at the start)" in caplog.text
    assert "steps/s" in caplog.text or "s a step" in caplog.text


def test_an_evaluation_says_what_the_student_knows_of_gold() -> None:
    """Against whole logits of each sequence by itself; in packs of any kind."""
    examples, student = make_examples(np.random.default_rng(0), databases=2, questions=5, views=1), make_student()
    tokens, nll, first, stop = 0, 0.0, 0, 0.0
    for example in examples:
        gold = example.branches[0]
        ids = torch.tensor([[*gold.tokens.tolist(), EOS]])
        with torch.no_grad():
            logits = student(ids).logits[0, gold.start - 1 : -1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, gold.start :], reduction="none")
        nll, stop, tokens = nll + float(losses[:-1].sum()), stop + float(losses[-1]), tokens + len(losses) - 1
        first += int((logits.argmax(-1) == ids[0, gold.start :])[:-1].sum())
    overlap = _overlap_of(examples, student)
    for layout in ("tree", "plain", "none"):
        model = make_student()
        choose_layout(model, layout)
        runner = Runner(model, torch.device("cpu"), layout, 128, None)
        figures = runner.evaluate([examples], RunObjective.of(config()), EOS)
        assert figures.knowledge is not None
        assert figures.overlap is not None
        assert dataclasses.astuple(figures.overlap) == pytest.approx(overlap, rel=1e-4)
        assert figures.knowledge.sums() == pytest.approx((tokens, nll, first, len(examples), stop), rel=1e-4)
        together = (nll + stop) / (tokens + len(examples))
        assert figures.mle == pytest.approx(together, rel=1e-4), "the loss's own NLL counts the end of sequence"
        assert runner.evaluate([examples], RunObjective.of(config())).knowledge is None


def _overlap_of(examples: list[TrainingExample], student: nn.Module) -> tuple[float, ...]:
    """The sums of an Overlap, position by position, in sets."""
    sums = np.zeros(5)
    for branch in (b for example in examples for b in example.branches if b.teacher is not None):
        assert branch.teacher is not None
        with torch.no_grad():
            logits = student(torch.from_numpy(branch.tokens.astype(np.int64))[None]).logits[0, branch.start - 1 :].float()
        ends = np.cumsum(branch.teacher.count)
        for log_q_V, end, count in zip(logits.log_softmax(-1), ends, branch.teacher.count, strict=True):
            stored, best = branch.teacher.ids[end - count : end].tolist(), log_q_V.argsort(descending=True).tolist()
            inside = set(best[:count]) & set(stored)
            sums += (1, best[0] in stored, count, len(inside), float(log_q_V[stored].exp().sum()))
    return tuple(sums)


def test_a_run_keeps_what_its_student_knew_and_warns_of_a_weaker_teacher(
    build: tuple[Source, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, student = build
    weak = GoldKnowledge(tokens=1000, nll_sum=9000.0, first=10, answers=50, stop_nll_sum=620.0)
    logging.getLogger("train").propagate = True
    with caplog.at_level(logging.INFO, logger="train"):
        result = run(config(method="kid", max_steps=2), source, student, tmp_path / "run", teacher=weak)
    assert "knows gold better than its teacher" in caplog.text
    assert "when to stop" in caplog.text
    evals = [line for line in lines(tmp_path / "run") if line["kind"] == "eval"]
    assert result.start_knowledge == GoldKnowledge.from_json(evals[0]["on_gold"])
    assert result.final_knowledge == GoldKnowledge.from_json(evals[-1]["on_gold"])
    assert result.start_knowledge != result.final_knowledge
    assert result.start_overlap == Overlap.from_json(evals[0]["overlap"]) != result.final_overlap
    assert f"on the holdout {result.start_overlap}" in caplog.text
    again = run(config(method="kid", max_steps=2), source, student, tmp_path / "run")
    assert (again.start_knowledge, again.final_knowledge) == (result.start_knowledge, result.final_knowledge)
    assert (again.start_overlap, again.final_overlap) == (result.start_overlap, result.final_overlap)
