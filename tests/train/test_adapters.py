"""LoRA: trees teach adapters what rows teach them, and what is saved is an ordinary model that computes the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.models.trees.attention import has_tree_attention
from tests.train.small import make_examples, make_student, save_small_student, write_build
from tests.train.stopping import stopped
from tests.train.test_tree_gradients import assert_same, gradients
from train.student.adapters import add_adapters
from train.student.layout import check_head, choose_layout
from train.student.student import save_student, student_state
from train.trainer import run


def lora(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"lora_rank": 4, "method": "sft", "learning_rate": 1e-2, "batch_size": 8} | changes)


def adapted_student(heads: int = 4) -> torch.nn.Module:
    model = add_adapters(make_student(heads=heads), lora())
    # Fresh adapters add nothing: their second matrix is 0, and the first gets no gradient.
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def test_trees_teach_adapters_what_rows_teach() -> None:
    model = adapted_student()
    examples = make_examples(np.random.default_rng(0), 2, 3, 2)
    expected = gradients(model, examples, "none", 10_000)
    assert all("lora_" in name for name in expected[1])
    assert_same(gradients(model, examples, "tree", 10_000), expected)
    assert choose_layout(model, "auto") == "tree"
    assert has_tree_attention(model)
    assert_same(gradients(model, examples, "tree", 10_000), expected)


def test_merged_export_computes_what_the_adapted_model_computes(tmp_path: Path) -> None:
    origin = save_small_student(tmp_path / "origin")
    model = adapted_student()
    save_student(model, student_state(model, origin), origin, tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, model(input_ids=ids).logits, atol=1e-4)
        assert not torch.allclose(plain(ids).logits, make_student()(ids).logits, atol=1e-2)
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == load_file(origin / "model.safetensors").keys()


@pytest.mark.filterwarnings("ignore:.*base model:UserWarning")
@pytest.mark.parametrize("targets", ["all-linear", "embed_tokens,q_proj"])
def test_the_adapter_kept_beside_the_merged_weights_gives_their_logits(tmp_path: Path, targets: str) -> None:
    origin = save_small_student(tmp_path / "origin", tied=False)
    source = write_build(tmp_path / "build", parts=1, rows=24, learnable=True)
    settings = lora(max_steps=4, lora_targets=targets, student=str(origin), holdout=0.1)
    best = run(settings, source, origin, tmp_path / "run").best
    merged = AutoModelForCausalLM.from_pretrained(best)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(origin), best / "adapter")
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(adapted(input_ids=ids).logits, merged(ids).logits, atol=1e-4)
        assert not torch.allclose(make_student(tied=False)(ids).logits, merged(ids).logits, atol=1e-3)
    assert json.loads((best / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(origin)


_TARGETS = (
    "all-linear",
    "q_proj",
    "k_proj,v_proj",
    "down_proj",
    "embed_tokens",
    "embed_tokens,q_proj",
    "lm_head",
    "lm_head,o_proj",
)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("targets", _TARGETS)
def test_what_is_saved_is_what_was_trained_or_the_targets_are_refused(tmp_path: Path, targets: str, tied: bool) -> None:
    origin = save_small_student(tmp_path / "origin", tied=tied)
    shares = {"embed_tokens", "lm_head"} & set(targets.split(","))
    if tied and shares:
        with pytest.raises(KidpipeError, match=f"adapter on {shares.pop()} cannot be saved"):
            add_adapters(make_student(tied=tied), lora(lora_targets=targets))
        return
    model = add_adapters(make_student(tied=tied), lora(lora_targets=targets))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    if "lm_head" in shares:
        with pytest.raises(KidpipeError, match="LM head"):
            check_head(model)
        return
    save_student(model, student_state(model, origin), origin, tmp_path / "out")
    plain, ids = AutoModelForCausalLM.from_pretrained(tmp_path / "out"), torch.tensor([[3, 4, 5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, model(input_ids=ids).logits, atol=1e-4)
        assert not torch.allclose(plain(ids).logits, make_student(tied=tied)(ids).logits, atol=1e-2)


def test_a_run_with_adapters_learns_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, student = write_build(tmp_path / "build", learnable=True), save_small_student(tmp_path / "student")
    settings = lora(epochs=6, holdout=0.1, save_every=2, eval_every=6)
    whole = run(settings, source, student, tmp_path / "whole")
    with stopped(monkeypatch):
        run(settings, source, student, tmp_path / "cut")
    (checkpoint,) = (path for path in (tmp_path / "cut" / "checkpoints").iterdir() if path.name.endswith("4"))
    saved = torch.load(checkpoint / "model.pt", weights_only=True)
    assert all("lora_" in name for name in saved)
    resumed = run(settings, source, student, tmp_path / "cut")
    assert (resumed.last / "model.safetensors").read_bytes() == (whole.last / "model.safetensors").read_bytes()
    steps = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert steps[-1]["gold_nll"] < steps[0]["gold_nll"]


def test_unknown_targets_are_refused_with_the_real_ones() -> None:
    for targets, said in {
        "q_projection": "no layer is called q_projection",
        "q_proj,v_prj,mpl": "no layer is called v_prj or mpl",
        "all-linear,q_proj": "no layer is called all-linear",
        "mlp": "no adapter can stand beside mlp",
        " , ": "no layer is named",
    }.items():
        with pytest.raises(KidpipeError, match=said) as caught:
            add_adapters(make_student(), lora(lora_targets=targets))
        assert "q_proj" in caught.value.fix


def test_an_adapted_head_is_refused(tmp_path: Path) -> None:
    source, student = write_build(tmp_path / "build"), save_small_student(tmp_path / "student", tied=False)
    with pytest.raises(KidpipeError, match="LM head"):
        run(lora(lora_targets="lm_head,q_proj"), source, student, tmp_path / "run")
