"""Shapes and free memory in; estimates that match what was counted by hand, and settings that fit, out."""

import json
import logging
import weakref
from pathlib import Path

import pytest
import torch

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from tests.train.small import save_small_student
from train.memory import StudentShape, _group_room, fitted, free_bytes, step_bytes
from train.student.ranks import Ranks

CPU = torch.device("cpu")
STORED_HALF = StudentShape(1_543_700_000, 28, 1536, 8960, 12, 1536, 256, 151_936, is_bfloat16=True)
HALF_BILLION = StudentShape(494_000_000, 24, 896, 4864, 14, 896, 128, 151_936)
ONE_AND_A_HALF = StudentShape(1_543_700_000, 28, 1536, 8960, 12, 1536, 256, 151_936)


def settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"dtype": "bfloat16", "pack_tokens": 4096} | changes)


@pytest.mark.parametrize(
    ("shape", "changes", "stays", "moves"),
    [
        (HALF_BILLION, {}, 8.5, 8.2),
        (ONE_AND_A_HALF, {"lora_rank": 16, "pack_tokens": 1024}, 7.1, 6.4),
        (ONE_AND_A_HALF, {"lora_rank": 16}, 7.1, 15.9),
        (STORED_HALF, {"lora_rank": 16, "pack_tokens": 1024}, 4.0, 3.5),
        # The student as it is loaded is the most here.
        (STORED_HALF, {"lora_rank": 16, "pack_tokens": 1024, "gradient_checkpointing": True}, 6.8, 0.0),
    ],
)
def test_estimates_are_those_counted_by_hand(shape: StudentShape, changes: dict[str, object], stays: float, moves: float) -> None:
    assert step_bytes(shape, settings(**changes), CPU) / 1e9 == pytest.approx(stays + 1.7 * moves, rel=0.06)
    on_gold = step_bytes(shape, settings(method="sft", **changes), CPU) / 1e9
    assert on_gold == pytest.approx(stays + 1.4 * moves, rel=0.06)


@pytest.mark.parametrize(
    ("shape", "changes", "gigabytes"),
    [
        (HALF_BILLION, {}, 21.2),
        (HALF_BILLION, {"method": "sft"}, 20.8),
        (HALF_BILLION, {"pack_tokens": 2048}, 14.8),
        (HALF_BILLION, {"pack_tokens": 2048}, 17.85),
        (HALF_BILLION, {"pack_tokens": 1024}, 13.6),
        (HALF_BILLION, {"pack_tokens": 1024}, 13.8),
        (STORED_HALF, {"lora_rank": 16, "pack_tokens": 1024}, 11.56),
        (STORED_HALF, {"lora_rank": 16, "pack_tokens": 1024, "method": "sft"}, 7.93),
    ],
)
def test_estimates_are_within_15_percent_of_what_was_measured(
    shape: StudentShape, changes: dict[str, object], gigabytes: float
) -> None:
    """Largest resident sets of runs of up to 100 steps (bench/RESULTS.md)."""
    assert step_bytes(shape, settings(**changes), CPU) / 1e9 == pytest.approx(gigabytes, rel=0.15)


@pytest.mark.parametrize("lora_rank", [0, 16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_smaller_packs_and_checkpointing_take_less(lora_rank: int, dtype: str) -> None:
    def needed(**changes: object) -> int:
        return step_bytes(ONE_AND_A_HALF, settings(lora_rank=lora_rank, dtype=dtype, **changes), CPU)

    assert needed(pack_tokens=1024) < needed(pack_tokens=4096)
    assert needed(gradient_checkpointing=True) < needed()


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_student(tmp_path_factory.mktemp("student"))


def _large(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(StudentShape, "of", lambda _: ONE_AND_A_HALF)
    monkeypatch.setattr("train.memory.free_bytes", lambda _: int(free))


def test_what_would_be_killed_is_made_to_fit_and_said(
    student: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _large(monkeypatch, 24e9)
    monkeypatch.setattr(logging.getLogger("train"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        chosen = fitted(settings(lora_rank=16), student, Ranks())
    assert (chosen.pack_tokens, chosen.gradient_checkpointing) == (1024, False)
    assert "packs of 1024 tokens" in caplog.text
    _large(monkeypatch, 11e9)
    tight = fitted(settings(lora_rank=16), student, Ranks())
    assert tight.gradient_checkpointing
    _large(monkeypatch, 60e9)
    roomy = settings(lora_rank=16)
    assert fitted(roomy, student, Ranks()) is roomy


def test_what_cannot_fit_is_refused_with_the_settings_to_change(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _large(monkeypatch, 8e9)
    with pytest.raises(KidpipeError, match=r"would take about .* GB, and 8\.0 GB are free") as caught:
        fitted(settings(), student, Ranks())
    assert "train.lora_rank" in caught.value.fix


def test_a_small_student_is_read_from_its_folder_and_fits(student: Path) -> None:
    shape = StudentShape.of(student)
    assert shape is not None
    assert (shape.layers, shape.hidden, shape.query_width, shape.key_width) == (2, 32, 32, 16)
    assert free_bytes(CPU) > 0
    mine = settings()
    assert fitted(mine, student, Ranks()) is mine


def test_a_configuration_with_other_names_is_not_judged(student: Path, tmp_path: Path) -> None:
    config = json.loads((student / "config.json").read_text())
    del config["intermediate_size"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(student / "model.safetensors")
    assert StudentShape.of(tmp_path) is None


@pytest.mark.parametrize(
    ("entry", "base", "names"),
    [
        ("0::/a/b", "", ("memory.max", "memory.current")),
        ("4:memory:/a/b", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ],
)
def test_the_tightest_control_group_counts(tmp_path: Path, entry: str, base: str, names: tuple[str, str]) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(entry + "\n")
    groups = tmp_path / "sys/fs/cgroup" / base / "a"
    for folder, limit in ((groups / "b", "1000" if base else "max"), (groups, "500")):
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in zip((*names, "memory.stat"), (limit, "100", "inactive_file 30\n"), strict=True):
            (folder / name).write_text(value)
    assert list(_group_room(tmp_path)) == ([930, 430] if base else [430])


def test_packs_are_as_large_as_a_gpu_allows_and_stay_so_when_a_run_goes_on(
    student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packs(ranks: Ranks, began_with: int = 0, **changes: object) -> object:
        return fitted(settings(pack_tokens="auto", **changes), student, ranks, began_with).pack_tokens

    gpu = Ranks(device=torch.device("cuda"))
    monkeypatch.setattr(StudentShape, "of", lambda _: HALF_BILLION)
    for free, size in ((80e9, 16384), (32e9, 8192), (24e9, 4096), (16e9, 2048)):
        monkeypatch.setattr("train.memory.free_bytes", lambda _, free=free: int(free))
        assert packs(gpu) == size
    monkeypatch.setattr("train.memory.free_bytes", lambda _: int(80e9))
    assert packs(Ranks()) == packs(gpu, method="gkd") == packs(gpu, began_with=4096) == 4096
    monkeypatch.setattr(StudentShape, "of", lambda _: None)
    assert packs(gpu) == 4096


def test_an_example_longer_than_a_pack_counts_whole(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack holds one example at least."""
    short, long = (settings(lora_rank=16, pack_tokens=size) for size in (1024, 4096))
    assert step_bytes(ONE_AND_A_HALF, short, CPU, longest=4096) == pytest.approx(step_bytes(ONE_AND_A_HALF, long, CPU), rel=0.02)
    assert step_bytes(ONE_AND_A_HALF, short, CPU, longest=900) == step_bytes(ONE_AND_A_HALF, short, CPU)
    _large(monkeypatch, 20e9)
    # Smaller packs help as far as the longest example lets them.
    assert fitted(long, student, Ranks(), longest=300).gradient_checkpointing is False
    tight = fitted(long, student, Ranks(), longest=3000)
    assert (tight.pack_tokens, tight.gradient_checkpointing) == (4096, True)


def test_what_an_earlier_run_left_behind_does_not_count(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model in a circle of references is freed by the collector only."""
    monkeypatch.setattr(StudentShape, "of", lambda _: ONE_AND_A_HALF)
    left = [_Circle()]
    gone = weakref.ref(left.pop())
    monkeypatch.setattr("train.memory.free_bytes", lambda _: int(14e9 if gone() else 60e9))
    mine = settings(lora_rank=16)
    assert fitted(mine, student, Ranks()) is mine


class _Circle:
    def __init__(self) -> None:
        self.me = self
