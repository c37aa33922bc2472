"""No fast path trains another objective: ten steps of each method on trees equal ten steps the slow way."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kidcore.config.stage_settings import MaskSettings, PredictSettings, ScoreSettings
from kidcore.config.train_settings import TrainSettings
from kidcore.method.methods import METHODS
from kidcore.models.sources import resolve
from kidcore.models.tokenizers import Tokens
from tests.train.slow import SlowTrainer, plain_descent
from tests.train.small import EOS, VOCAB_SIZE, save_small_student, write_build
from train.data.dataset import Source
from train.online.setup import OnlineSetup
from train.trainer import run

# How far apart two runs may end, as a share of the way that they went. Measured: 1e-6 to 7e-5; a weight changed by a tenth
# makes 0.008.
TOLERANCE = 3e-4
# Tokens some of which the untrained student puts into some answers: it never ends one with the EOS alone.
STOPS = (EOS, 12, 15, 25, 32, 59)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path]:
    folder = tmp_path_factory.mktemp("methods")
    save_small_student(folder / "teacher", seed=7)
    return write_build(folder, parts=3, rows=12), save_small_student(folder / "student")


def online_setup(student: Path, **changes: object) -> OnlineSetup:
    """The small teacher beside the small student; its EOS is no token to mask with, so another one is."""
    fields: dict[str, object] = {
        "teacher": resolve(str(student.parent / "teacher")),
        "dtype": "float32",
        "tokens": Tokens(mask_id=0, eos_id=EOS, vocab_size=VOCAB_SIZE, banned=frozenset({0, EOS})),
        "stop_ids": STOPS,
        "max_length": 512,
        "batch_tokens": 300,
        "score": ScoreSettings(top_k=8, tail_mass=0.0),
        "mask": MaskSettings(ratio=0.4),
        "predict": PredictSettings(),
    }
    return OnlineSetup(**(fields | changes))  # type: ignore[arg-type]


def config(method: str, **changes: object) -> TrainSettings:
    values: dict[str, object] = {
        "method": method,
        "batch_size": 6,
        "max_steps": 10,
        "holdout": 0.0,
        "learning_rate": 0.005,
        "clip": 1e6,
    }
    values |= {"packing": "tree", "dtype": "float32", "rollout_tokens": 7, "rollout_temperature": 0.0, "eval_every": 10}
    return TrainSettings.model_validate(values | changes)


def trained_fast(settings: TrainSettings, build: tuple[Source, Path], out: Path, patch: pytest.MonkeyPatch) -> torch.Tensor:
    patch.setattr("train.trainer.make_optimizer", plain_descent)
    source, student = build
    online = online_setup(student) if METHODS[settings.method].is_online else None
    result = run(settings, source, student, out, progress=False, online=online)
    return weights(result.last / "model.safetensors")


def trained_slowly(settings: TrainSettings, build: tuple[Source, Path]) -> torch.Tensor:
    source, student = build
    model = SlowTrainer(settings, source, student, online_setup(student)).train()
    state = model.state_dict()
    return torch.cat([state[name].flatten() for name in sorted(load_file(student / "model.safetensors"))])


def weights(file: Path) -> torch.Tensor:
    return torch.cat([tensor.flatten() for _, tensor in sorted(load_file(file).items())])


CASES: list[tuple[str, dict[str, object]]] = [
    # Without maximum likelihood gradients are small: longer steps, or the way is as short as the rounding of the weights.
    # Answers alone say little to an untrained student: a larger rate lets its weights move far enough to compare.
    *((method, {"learning_rate": 0.1} if traits.mle == "on_policy_mle" else {}) for method, traits in METHODS.items()),
    ("kid", {"gold_share": 0.0}),
    ("kid", {"imperfect_share": 0.5, "gold_share": 0.5, "mle_weight": 0.3, "kd_weight": 2.0}),
    ("gkd", {"imperfect_share": 0.5, "on_policy_mle": 1.0}),
    ("kid", {"rollout_share": 0.5}),
    ("opd", {"on_policy_mle": 0.5}),
    ("seqkd", {"answers": "correct"}),
    ("kid", {"view_choice": "only_plausible", "gold_divergence": "skew_forward_kl", "divergence": "skew_reverse_kl"}),
    ("kid", {"view_choice": "prefer_plausible", "rollout_share": 0.5, "position_weight": "entropy"}),
    ("opd", {"view_choice": "prefer_plausible", "position_weight": "sure_and_wrong", "learning_rate": 0.1}),
]


@pytest.mark.parametrize(("method", "changes"), CASES, ids=str)
def test_ten_steps_on_trees_equal_ten_slow_ones(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, changes: dict[str, object]
) -> None:
    settings = config(method, **changes)
    fast = trained_fast(settings, build, tmp_path / "run", monkeypatch)
    slow = trained_slowly(settings, build)
    way = (slow - weights(build[1] / "model.safetensors")).norm()
    assert way > 0.01
    assert (fast - slow).norm() < TOLERANCE * way


def test_the_tolerance_tells_objectives_apart(build: tuple[Source, Path]) -> None:
    start = weights(build[1] / "model.safetensors")
    rkd = trained_slowly(config("rkd"), build)
    for other in (config("fkd"), config("rkd", kd_weight=1.1), config("kid", gold_share=1.0)):
        assert (trained_slowly(other, build) - rkd).norm() > 20 * TOLERANCE * (rkd - start).norm(), other.method


@pytest.mark.parametrize("name", ["jensen_shannon", "skew_forward_kl", "skew_reverse_kl"])
def test_another_divergence_is_another_run(build: tuple[Source, Path], tmp_path: Path, name: str) -> None:
    source, student = build
    common = {"holdout": 0.2, "max_steps": 3}
    own = run(config("kid", **common), source, student, tmp_path / "own")
    changed = config("kid", **common, divergence=name, divergence_parameter=0.1)
    other = run(changed, source, student, tmp_path / "other")
    first, second = (first_step(tmp_path / which) for which in ("own", "other"))
    assert first["gold_nll"] == second["gold_nll"]
    assert first["divergence"] != second["divergence"]
    assert 0 < own.best_nll != other.best_nll > 0


def first_step(out: Path) -> dict[str, Any]:
    log = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return next(line for line in map(json.loads, log) if line["kind"] == "step")
