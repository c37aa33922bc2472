"""Several processes (gloo, on the CPU) make, score and learn the sequences that one does, with whole or divided students."""

from pathlib import Path

import pytest
import torch

from kidcore.config.train_settings import TrainSettings
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.trees.trunk import causal_of
from tests.train.small import make_student, save_small_student, write_build
from tests.train.test_methods import online_setup
from tests.train.test_ranks import assert_same_run, lines
from tests.train.together import config, finish, interrupt, source_of
from train.student.adapters import add_adapters
from train.student.placement import WholeCopy
from train.trainer import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    write_build(folder, parts=4, rows=24)
    save_small_student(folder / "teacher", seed=7)
    save_small_student(folder / "student")
    return folder


def options(method: str, **changes: object) -> dict[str, object]:
    fixed: dict[str, object] = {"method": method, "epochs": 1, "max_steps": 4, "rollout_tokens": 9, "learning_rate": 1e-2}
    # Each of two processes makes the sequences of half of the examples, an odd number of them.
    return fixed | {"batch_size": 7, "eval_every": 2} | changes


def alone(folder: Path, out: Path, changes: dict[str, object]) -> None:
    run(config(**changes), source_of(folder), folder / "student", out, online=online_setup(folder / "student"))


CASES: list[tuple[str, str, dict[str, object]]] = [
    ("gkd", "ddp", {}),
    ("kid-online", "ddp", {}),
    ("gkd", "fsdp", {}),
    ("kid-online", "fsdp", {}),
    ("imitkd", "fsdp", {"lora_rank": 4}),
    # The second process makes nothing.
    ("gkd", "fsdp", {"batch_size": 1, "packing": "none"}),
]


@pytest.mark.engine
@pytest.mark.parametrize(("method", "parallel", "changes"), CASES, ids=str)
def test_two_processes_make_and_learn_what_one_does(
    folder: Path, tmp_path: Path, method: str, parallel: str, changes: dict[str, object]
) -> None:
    alone(folder, tmp_path / "one", options(method, **changes))
    finish(2, "train", folder, tmp_path / "two", **options(method, **changes), parallel=parallel)
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert_same_run(two, one)
    assert [line.get("generated_tokens") for line in two] == [line.get("generated_tokens") for line in one]
    assert sum(line.get("generated_tokens", 0) for line in one) > 0


@pytest.mark.engine
@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4}], ids=str)
def test_a_divided_student_generates_on_after_an_interruption(folder: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    fixed = options("gkd", max_steps=14, save_every=2, eval_every=10, **changes)
    alone(folder, tmp_path / "whole", fixed)
    interrupt(2, folder, tmp_path / "cut", 6, **fixed, parallel="fsdp")
    finish(2, "train", folder, tmp_path / "cut", **fixed, parallel="fsdp")
    assert_same_run(lines(tmp_path / "cut"), lines(tmp_path / "whole"), rel=1e-3)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_copy_kept_cast_answers_as_autocast_does(lora_rank: int) -> None:
    """Half of its weights are cast for good; embeddings and the LM head tied to them, which autocast leaves alone, are not."""
    settings = TrainSettings(lora_rank=lora_rank)
    whole, twin = (add_adapters(make_student(), settings) if lora_rank else make_student() for _ in range(2))
    copy = WholeCopy(twin, torch.bfloat16).model
    kinds = {name: parameter.dtype for name, parameter in causal_of(copy).named_parameters()}
    assert kinds["model.embed_tokens.weight"] == kinds["model.norm.weight"] == torch.float32
    assert {dtype for name, dtype in kinds.items() if "_proj" in name} == {torch.bfloat16}
    ids = torch.arange(2, 60)[None]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        mine, theirs = (causal_of(model.eval())(input_ids=ids).logits for model in (copy, whole))
        backend = TransformersBackend.around(causal_of(copy), batch_tokens=300, max_length=512)
        assert backend._shares_prompts, "it can be tried under autocast too"
    assert torch.equal(mine, theirs)
