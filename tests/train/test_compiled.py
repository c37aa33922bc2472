"""Compiled layers against plain ones. On a CPU they are traced as on a GPU, and torch's reference operators run the trace."""

import logging
from collections.abc import Iterator

import pytest
import torch

from kidcore.models.trees import flex
from kidcore.models.trees.attention import install
from kidcore.models.trees.trunk import run_trunk
from tests.kidcore.models.trees.drawing import CUDA, draw_schema_tree, flex_on
from tests.train.small import make_student
from tests.train.test_adapters import adapted_student
from train.student.compiled import compile_layers, layers_of

# The compiler looks at .grad of inputs that are no leaves, and means to hide the warning.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    yield from flex_on(request.param, monkeypatch)


def look(model: torch.nn.Module, seed: int, device: torch.device, dtype: torch.dtype | None) -> list[torch.Tensor]:
    tree = draw_schema_tree(seed, 2, 6, 150 + 100 * seed, 20)
    ids, positions = (torch.from_numpy(x).to(device)[None] for x in (tree.input_ids, tree.position_ids))
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        hidden = run_trunk(model, ids, positions, flex.make_flex_plan(tree.tout, device)).float()
    weights = torch.sin(torch.arange(hidden.numel(), device=device)).view_as(hidden)
    parameters = [p for name, p in model.named_parameters() if p.requires_grad and "lm_head" not in name]
    return [hidden.detach(), *torch.autograd.grad((hidden * weights).sum(), parameters)]


@pytest.mark.slow
@pytest.mark.parametrize("is_hard", [False, True])
def test_compiled_layers_compute_what_plain_ones_do_and_compile_once(device: torch.device, is_hard: bool) -> None:
    """With adapters, half precision and checkpointing together, and without; on a CPU, where tracing is slow, together only."""
    if device.type == "cpu" and not is_hard:
        pytest.skip("a part of the other case")
    model = (adapted_student(heads=2) if is_hard else make_student(heads=2)).to(device).train()
    dtype = torch.bfloat16 if is_hard else None
    if is_hard:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    assert install(model)
    expected = [look(model, seed, device, dtype) for seed in (1, 2)]
    assert compile_layers(model, dtype, "aot_eager" if device.type == "cpu" else "inductor")
    for number, plain in enumerate(expected):
        with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
            found = look(model, number + 1, device, dtype)
        for mine, theirs in zip(found, plain, strict=True):
            assert (mine - theirs).norm() <= (2e-2 if dtype else 2e-5) * theirs.norm() + 1e-6
    # Generation and evaluation run the plain layers.
    with torch.no_grad(), torch.compiler.set_stance("fail_on_recompile"):
        model(input_ids=torch.tensor([[3, 4, 5]], device=device))


def test_what_does_not_compile_runs_as_it_was_and_that_is_said(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("train"), "propagate", True)
    model = make_student(heads=2).to(device).train()
    assert not compile_layers(model, None)
    assert "does not run tree attention" in caplog.text
    assert install(model)

    def broken(*_: object) -> None:
        raise RuntimeError("no compiler")

    assert not compile_layers(model, None, broken)  # type: ignore[arg-type]
    assert "they do not compile here (" in caplog.text
    assert all("forward" not in vars(layer) for layer in layers_of(model))
    look(model, 1, device, None)
