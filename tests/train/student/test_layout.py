"""Which students can be trained, how they pack, and what a person is told where they can't."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from tests.train.small import make_student
from train.data.examples import Counts
from train.loss.head import Objective
from train.step import RunObjective, autocast_dtype
from train.student.layout import check_head, choose_layout, head_of


def test_the_head_is_a_matrix_and_perhaps_a_bias() -> None:
    model = make_student(tied=False)
    weight, bias = head_of(model)
    assert weight is model.lm_head.weight
    assert bias is None
    check_head(model)


@pytest.mark.parametrize("name", ["final_logit_softcapping", "logits_soft_cap", "logit_softcapping"])
def test_soft_capped_logits_are_refused_by_their_setting(name: str) -> None:
    model = make_student()
    setattr(model.config, name, 30.0)
    with pytest.raises(KidpipeError, match="soft-caps its logits") as caught:
        check_head(model)
    assert f"{name} = 30.0" in caught.value.where


def test_weights_that_are_no_numbers_are_said_to_be_that() -> None:
    model = make_student()
    with torch.no_grad():
        model.model.norm.weight.mul_(float("inf"))
    with pytest.raises(KidpipeError, match=r"NaN or infinities: model\.norm\.weight"):
        check_head(model)


def test_a_head_that_is_no_matrix_is_refused() -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(model_type="odd"), get_output_embeddings=lambda: nn.Sequential())
    with pytest.raises(KidpipeError, match="the LM head is a Sequential") as caught:
        head_of(model)
    assert "lm_head out of the LoRA targets" in caught.value.fix


@pytest.mark.parametrize("packing", ["auto", "tree", "plain", "none"])
def test_a_student_that_shares_prompts_packs_as_it_is_told(packing: Any) -> None:
    assert choose_layout(make_student(), packing) == ("tree" if packing == "auto" else packing)


def test_a_student_that_can_t_says_so_or_refuses(caplog: pytest.LogCaptureFixture) -> None:
    model = make_student(sliding_window=8)
    with caplog.at_level(logging.WARNING):
        best = choose_layout(model, "auto")
    assert best != "tree"
    assert "prompts are not shared" in caplog.text
    assert choose_layout(model, best) == best
    with pytest.raises(KidpipeError, match="cannot train with packing = tree") as caught:
        choose_layout(model, "tree")
    assert caught.value.fix == f"set train.packing = {best} or auto"


@pytest.mark.parametrize(
    ("method", "mle", "kd"), [("sft", 1.0, 0.0), ("seqkd", 1.0, 0.0), ("kid", 0.5, 2.0), ("fkd", 0.5, 2.0), ("gkd", 0.25, 2.0)]
)
def test_the_objective_is_the_method_s_with_the_weights_that_it_looks_at(method: Any, mle: float, kd: float) -> None:
    recipe = RunObjective.of(TrainSettings(method=method, mle_weight=0.5, kd_weight=2.0, on_policy_mle=0.25))
    assert (recipe.mle_weight, recipe.kd_weight, recipe.divergence is None) == (mle, kd, kd == 0)
    assert recipe.loss(3.0, 5.0) == mle * 3.0 + kd * 5.0
    assert recipe.scaled(Counts(4, 8)) == Objective(mle / 4, kd / 8, recipe.divergence)
    assert recipe.scaled(Counts(0, 0)) == Objective(mle, kd, recipe.divergence), "nothing to divide by is no error"


def test_float16_is_refused_and_a_cpu_trains_in_float32_unless_told() -> None:
    cpu = torch.device("cpu")
    assert autocast_dtype(TrainSettings(), cpu) is None
    assert autocast_dtype(TrainSettings(dtype="float32"), cpu) is None
    assert autocast_dtype(TrainSettings(dtype="bfloat16"), cpu) is torch.bfloat16
    with pytest.raises(KidpipeError, match="loses small gradients") as caught:
        autocast_dtype(TrainSettings(dtype="float16"), cpu)
    assert caught.value.where == "train.dtype = float16"
