"""Training on a GPU: shared prompts teach what separate rows teach, through the kernels that a GPU gets."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from kidcore.models.trees.attention import has_tree_attention
from tests.train.small import make_examples, make_student, save_small_student, write_build
from tests.train.test_adapters import adapted_student
from tests.train.test_methods import online_setup
from tests.train.test_trainer import config
from train.data.dataset import Dataset
from train.online.online import Online
from train.step import Runner, RunObjective
from train.student.layout import choose_layout
from train.trainer import run

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
CUDA = torch.device("cuda")
# Kernels need heads of 16 at least, hence two heads instead of four.


def accumulated(model: torch.nn.Module, examples: list[Any], layout: Any, dtype: torch.dtype | None = None) -> dict[str, Any]:
    model.zero_grad()
    figures = Runner(model, CUDA, layout, 4096, dtype).accumulate(examples, RunObjective.of(config()))
    return {"loss": torch.tensor(figures.mle + figures.kd)} | {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def assert_close(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= tolerance * value.norm() + 1e-7, name


@pytest.mark.parametrize("kind", ["plain", "checkpointing", "adapters"])
def test_trees_teach_what_rows_teach(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model = (adapted_student(heads=2) if kind == "adapters" else make_student(heads=2)).to(CUDA).train()
    if kind == "checkpointing":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with caplog.at_level(logging.DEBUG, "kidpipe"):
        assert choose_layout(model, "auto") == "tree"
    assert has_tree_attention(model), caplog.text

    @given(seed=st.integers(0, 2**31), databases=st.integers(1, 3), questions=st.integers(1, 4), views=st.integers(0, 3))
    @settings(max_examples=10, deadline=None)
    def agree(seed: int, databases: int, questions: int, views: int) -> None:
        examples = make_examples(np.random.default_rng(seed), databases, questions, views)
        expected = accumulated(model, examples, "none")
        assert_close(accumulated(model, examples, "tree"), expected, 2e-5)
        assert_close(accumulated(model, examples, "plain"), expected, 2e-5)

    agree()


def test_bfloat16_trees_are_as_close_to_float32_as_bfloat16_rows() -> None:
    model = make_student(heads=2).to(CUDA).train()
    examples = make_examples(np.random.default_rng(5), 3, 4, 2)
    exact = accumulated(model, examples, "none")
    rows = accumulated(model, examples, "none", torch.bfloat16)
    assert choose_layout(model, "auto", torch.bfloat16) == "tree"
    assert has_tree_attention(model)
    trees = accumulated(model, examples, "tree", torch.bfloat16)

    def distance(found: dict[str, Any]) -> float:
        return float(sum((found[name] - exact[name]).norm() ** 2 for name in exact if name != "loss") ** 0.5)

    assert distance(trees) < 1.5 * distance(rows) + 1e-3
    assert trees["loss"] == pytest.approx(float(exact["loss"]), rel=1e-2)


def test_runs_end_with_the_same_weights_packed_and_unpacked(tmp_path: Path) -> None:
    source, student = write_build(tmp_path / "build", learnable=True), save_small_student(tmp_path / "student", heads=2)
    weights = {}
    for packing in ("tree", "none"):
        settings = config(packing=packing, dtype="float32", max_steps=20, holdout=0.0, learning_rate=1e-3)
        result = run(settings, source, student, tmp_path / packing, device="cuda", progress=False)
        weights[packing] = load_file(result.last / "model.safetensors")
    for name, value in weights["none"].items():
        assert (weights["tree"][name] - value).norm() <= 1e-4 * value.norm(), name


@pytest.mark.parametrize("method", ["gkd", "kid-online"])
def test_what_an_online_method_makes_is_what_a_cpu_makes(tmp_path: Path, method: str) -> None:
    source, student = write_build(tmp_path), save_small_student(tmp_path / "student", heads=2)
    save_small_student(tmp_path / "teacher", heads=2, seed=7)
    settings = config(method=method, rollout_temperature=0.0, rollout_tokens=9, packing="tree", dtype="float32")
    made = {}
    for device in (torch.device("cpu"), CUDA):
        model = make_student(heads=2).to(device)
        choose_layout(model, "tree")
        online = Online(settings, online_setup(student), model, 10, device=device, autocast_dtype=None)
        made[device.type] = online.prepare(1, next(Dataset(source, settings).steps())).examples
    for ours, theirs in zip(made["cuda"], made["cpu"], strict=True):
        for mine, other in zip(ours.branches, theirs.branches, strict=True):
            assert mine.tokens.tolist() == other.tokens.tolist()
            assert (mine.teacher is None) == (other.teacher is None)
            if mine.teacher is not None and other.teacher is not None:
                np.testing.assert_allclose(mine.teacher.tail, other.teacher.tail, atol=1e-4)
    result = run(
        settings.model_copy(update={"dtype": "bfloat16", "max_steps": 6, "rollout_temperature": 1.0}),
        source,
        student,
        tmp_path / "run",
        device="cuda",
        progress=False,
        online=online_setup(student),
    )
    assert np.isfinite(result.final_nll)


def test_heads_too_small_for_the_kernels_get_dense_masks_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model = make_student(heads=4).to(CUDA).train()
    assert choose_layout(model, "auto") == "tree"
    assert not has_tree_attention(model)
    assert "attention: dense masks, because FlexAttention does not compile here" in caplog.text
    examples = make_examples(np.random.default_rng(6), 2, 3, 2)
    assert_close(accumulated(model, examples, "tree"), accumulated(model, examples, "none"), 2e-5)
