"""Several processes (gloo, on the CPU) compute what one does: the same examples, the same gradients, the same losses."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.train.small import make_student, save_small_student, write_build
from tests.train.together import config, finish, gradients, interrupt
from train.data.dataset import Source
from train.student.ranks import ALONE
from train.trainer import run

TIMES = ("seconds", "loader_seconds", "examples_per_second")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path]:
    folder = tmp_path_factory.mktemp("build")
    source = write_build(folder, parts=4, rows=24, learnable=True)
    save_small_student(folder / "student")
    return source, folder


def lines(out: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    text = (out / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in text]


def assert_same_run(mine: list[dict[str, Any]], theirs: list[dict[str, Any]], rel: float = 1e-4) -> None:
    """Counts and examples are equal; what was summed in another order agrees within rounding.

    AdamW divides by the root of the second moment, which lifts rounding of small gradients up to full steps: 1e-7 at the
    first step may be 1e-5 after twenty. The gradients themselves are compared far more strictly elsewhere.
    """
    assert len(mine) == len(theirs)
    for left, right in zip(mine, theirs, strict=True):
        for name in ("kind", "step", "examples", "gold_tokens", "teacher_tokens", "trunk_tokens", "naive_tokens", "packs", "lr"):
            assert left.get(name) == right.get(name), name
        for name in ("loss", "gold_nll", "divergence"):
            assert left[name] == pytest.approx(right[name], rel=rel, abs=1e-6), (left["step"], name)


@pytest.mark.engine
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_sum_to_the_gradients_of_one(build: tuple[Source, Path], tmp_path: Path, dtype: str, parallel: str) -> None:
    """An odd number of packs, one pack for two processes, and one pack an example; bfloat16 sums in float32 too."""
    finish(2, "gradients", build[1], tmp_path / "two.pt", dtype=dtype, parallel=parallel)
    together = torch.load(tmp_path / "two.pt", weights_only=True)
    alone = gradients(ALONE, {"dtype": dtype})
    assert [packs for *_, packs, _ in alone] == [packs for *_, packs, _ in together]
    assert [packs % 2 for *_, packs, _ in alone][:2] == [1, 1]
    assert [packs for *_, packs, _ in alone][1] == 1
    for (mle, kd, _, mine), (their_mle, their_kd, _, theirs) in zip(alone, together, strict=True):
        assert (their_mle, their_kd) == pytest.approx((mle, kd), rel=1e-6)
        assert mine.keys() == theirs.keys()
        for name, grad in mine.items():
            assert (theirs[name] - grad).norm() <= 1e-6 * grad.norm(), name


@pytest.mark.engine
@pytest.mark.parametrize("pack_tokens", [64, 4096])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does(build: tuple[Source, Path], tmp_path: Path, pack_tokens: int, parallel: str) -> None:
    """With 4096 tokens a pack, each step is one pack, and the second process has none."""
    source, folder = build
    alone = run(config(pack_tokens=pack_tokens), source, folder / "student", tmp_path / "one")
    finish(2, "train", folder, tmp_path / "two", pack_tokens=pack_tokens, parallel=parallel)
    assert_same_run(lines(tmp_path / "two"), lines(tmp_path / "one"))
    packs = {line["packs"] for line in lines(tmp_path / "one") if line["kind"] == "step"}
    assert packs == {1} if pack_tokens == 4096 else any(count % 2 for count in packs - {1})
    assert json.loads((tmp_path / "two" / "result.json").read_text())["best_step"] == alone.best_step
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names


@pytest.mark.engine
def test_the_process_with_the_least_memory_decides_how_large_packs_are(build: tuple[Source, Path], tmp_path: Path) -> None:
    """Two that cut other packs would train some examples twice and others never."""
    source, folder = build
    changes: dict[str, object] = {"parallel": "ddp", "batch_size": 24, "max_steps": 2, "views_per_step": 2, "packing": "plain"}
    run(config(pack_tokens=512, **changes), source, folder / "student", tmp_path / "one")
    finish(2, "unlike", folder, tmp_path / "two", pack_tokens=4096, **changes)
    assert max(line["packs"] for line in lines(tmp_path / "one")) > 1
    assert_same_run(lines(tmp_path / "two"), lines(tmp_path / "one"))


@pytest.mark.engine
def test_killed_and_continued_with_other_processes_and_workers(build: tuple[Source, Path], tmp_path: Path) -> None:
    """One process, two with whole models and two loader workers each, two with divided ones, one again with a worker."""
    source, folder = build
    fixed: dict[str, object] = {"save_every": 2, "eval_every": 4, "pack_tokens": 64, "epochs": 4}
    run(config(**fixed), source, folder / "student", tmp_path / "whole")
    whole, out = lines(tmp_path / "whole"), tmp_path / "killed"
    marks = sorted(random.Random(1).sample(range(4, len(whole) - 6), 3))
    interrupt(1, folder, out, marks[0], **fixed)
    interrupt(2, folder, out, marks[1], **fixed, loader_workers=2, parallel="ddp")
    interrupt(2, folder, out, marks[2], **fixed, parallel="fsdp")
    finish(1, "train", folder, out, **fixed, loader_workers=1)
    assert_same_run(lines(out), whole)
    assert json.loads((out / "result.json").read_text())["best_step"] > 0
    assert (out / "last" / "model.safetensors").exists()


@pytest.mark.engine
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_adapters_and_checkpointing_in_two_processes(build: tuple[Source, Path], tmp_path: Path, parallel: str) -> None:
    source, folder = build
    options: dict[str, object] = {"pack_tokens": 64, "epochs": 1, "lora_rank": 4, "gradient_checkpointing": True}
    run(config(**options | {"gradient_checkpointing": False}), source, folder / "student", tmp_path / "one")
    finish(2, "train", folder, tmp_path / "two", **options, parallel=parallel)
    assert_same_run(lines(tmp_path / "two"), lines(tmp_path / "one"))
    mine, theirs = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("two", "one"))
    assert mine.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert (mine[name] - weight).norm() <= 1e-3 * weight.norm(), name


@pytest.mark.engine
def test_dropout_is_decided_by_the_pack_and_not_by_who_runs_it(build: tuple[Source, Path], tmp_path: Path) -> None:
    source = write_build(tmp_path / "build", parts=4, rows=24, learnable=True)
    student = make_student()
    student.config.attention_dropout = 0.3
    student.save_pretrained(tmp_path / "build" / "student")
    (tmp_path / "build" / "student" / "tokenizer.json").write_text("{}")
    options: dict[str, object] = {"pack_tokens": 64, "epochs": 1, "save_every": 2, "eval_every": 4}
    run(config(**options), source, tmp_path / "build" / "student", tmp_path / "one")
    interrupt(1, tmp_path / "build", tmp_path / "two", 4, **options)
    finish(2, "train", tmp_path / "build", tmp_path / "two", **options)
    assert_same_run(lines(tmp_path / "two"), lines(tmp_path / "one"))
    run(config(**options), source, build[1] / "student", tmp_path / "without")
    with_dropout, without = ([line for line in lines(tmp_path / name) if line["kind"] == "step"] for name in ("one", "without"))
    assert without[0]["loss"] != pytest.approx(with_dropout[0]["loss"], rel=1e-3)


@pytest.mark.engine
def test_divided_checkpoints_hold_parts_and_continue_under_any_division(build: tuple[Source, Path], tmp_path: Path) -> None:
    """Two processes with divided models write parts, which one with a whole model reads; and the other way round."""
    source, folder = build
    fixed: dict[str, object] = {"save_every": 2, "eval_every": 50, "pack_tokens": 64, "epochs": 3}
    run(config(**fixed), source, folder / "student", tmp_path / "whole")
    whole, out = lines(tmp_path / "whole"), tmp_path / "killed"
    interrupt(2, folder, out, 7, **fixed, parallel="fsdp")
    newest = sorted((out / "checkpoints").iterdir())[-1]
    parts = sorted(newest.glob("*.distcp"))
    assert len(parts) == 2
    assert not (newest / "optimizer.pt").exists()
    total = sum(path.stat().st_size for path in parts)
    assert all(path.stat().st_size < 0.7 * total for path in parts)
    interrupt(1, folder, out, 12, **fixed)
    assert (sorted((out / "checkpoints").iterdir())[-1] / "optimizer.pt").exists()
    finish(2, "train", folder, out, **fixed, parallel="fsdp")
    assert_same_run(lines(out), whole)
