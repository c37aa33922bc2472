"""A tree pack teaches what separate sequences teach: the same loss and the same gradient of every parameter."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, GraniteConfig, GraniteForCausalLM

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.models.trees.attention import has_tree_attention, install
from kidcore.models.trees.layout import PackLayout
from kidcore.models.trees.tree import build_tree
from tests.train.small import make_examples, make_student
from train.data.examples import TrainingExample
from train.data.packing import make_packs
from train.loss.head import Objective, head_loss
from train.loss.losses import divergence
from train.student.adapters import add_adapters
from train.student.layout import check_head, choose_layout, head_of, hidden_states

KID = Objective(mle_scale=0.01, kd_scale=0.02, divergence=divergence("reverse_kl"))


def gradients(
    model: torch.nn.Module, examples: list[TrainingExample], layout: PackLayout, pack_tokens: int
) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    total = 0.0
    for pack in make_packs(examples, layout, pack_tokens):
        loss = head_loss(hidden_states(model, pack), *head_of(model), pack.targets, KID).loss
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(left: tuple[float, dict[str, torch.Tensor]], right: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert left[0] == pytest.approx(right[0], rel=1e-5)
    assert left[1].keys() == right[1].keys()
    for name, grad in right[1].items():
        assert (left[1][name] - grad).norm() <= 2e-5 * grad.norm() + 1e-8, name


@pytest.mark.parametrize("tied", [True, False])
@given(seed=st.integers(0, 2**31), databases=st.integers(1, 3), questions=st.integers(1, 3), views=st.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_tree_and_plain_packs_agree_with_rows(tied: bool, seed: int, databases: int, questions: int, views: int) -> None:
    model = make_student(tied=tied)
    examples = make_examples(np.random.default_rng(seed), databases, questions, views)
    rows = gradients(model, examples, "none", 10_000)
    assert_same(gradients(model, examples, "tree", 10_000), rows)
    assert_same(gradients(model, examples, "plain", 10_000), rows)
    assert_same(gradients(model, examples, "tree", 64), rows)
    assert install(model)
    assert_same(gradients(model, examples, "tree", 10_000), rows)
    assert_same(gradients(model, examples, "plain", 10_000), rows)
    assert_same(gradients(model, examples, "none", 10_000), rows)


def test_one_tree_and_one_a_database_teach_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_student()
    assert install(model)
    head = np.full(5, 7, np.int32)
    examples = [
        replace(
            example, branches=tuple(replace(x, tokens=np.append(head, x.tokens), start=x.start + 5) for x in example.branches)
        )
        for example in make_examples(np.random.default_rng(3), 3, 3, 2)
    ]
    apart = gradients(model, examples, "tree", 10_000)
    (forest,) = make_packs(examples, "tree", 10_000)
    monkeypatch.setattr("train.data.packing.build_tree", partial(build_tree, least_shared=1))
    (tree,) = make_packs(examples, "tree", 10_000)
    assert forest.num_tokens >= tree.num_tokens + 2 * 5
    assert_same(gradients(model, examples, "tree", 10_000), apart)


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("layout", ["tree", "plain", "none"])
def test_gradient_checkpointing_changes_nothing(layout: PackLayout, lora_rank: int) -> None:
    model: torch.nn.Module = make_student()
    if lora_rank:
        model = add_adapters(model, TrainSettings(lora_rank=lora_rank))
        with torch.no_grad():
            # Adapters begin at zero, where half of their gradients are zero whatever happens.
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    examples = make_examples(np.random.default_rng(0), 2, 2, 2)
    expected = gradients(model, examples, layout, 200)
    assert all(grad.norm() > 0 for grad in expected[1].values())
    assert len(expected[1]) == sum(parameter.requires_grad for parameter in model.parameters())
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(gradients(model, examples, layout, 200), expected)
    assert install(model)
    assert_same(gradients(model, examples, layout, 200), expected)


def test_layout_is_tree_for_full_attention_and_less_for_sliding_windows(caplog: pytest.LogCaptureFixture) -> None:
    model = make_student()
    assert choose_layout(model, "auto") == "tree"
    assert has_tree_attention(model)
    assert not caplog.records
    model = make_student(sliding_window=8)
    assert choose_layout(model, "auto") == "plain"
    assert not has_tree_attention(model)
    assert "sliding-window" in caplog.text


def test_windows_are_kept_in_plain_packs() -> None:
    model = make_student(sliding_window=6)
    examples = make_examples(np.random.default_rng(1), 2, 2, 1)
    assert_same(gradients(model, examples, "plain", 10_000), gradients(model, examples, "none", 10_000))


def test_a_layout_that_the_model_cannot_serve_is_refused() -> None:
    with pytest.raises(KidpipeError, match="cannot train with packing = tree"):
        choose_layout(make_student(sliding_window=8), "tree")
    assert choose_layout(make_student(sliding_window=8), "none") == "none"


def test_models_with_attention_dropout_keep_dense_masks() -> None:
    model = make_student()
    model.config.attention_dropout = 0.1
    assert choose_layout(model, "auto") == "tree"
    assert not has_tree_attention(model)


def test_attention_dropout_by_another_name_keeps_dense_masks_too() -> None:
    sizes = {"vocab_size": 61, "n_embd": 32, "n_layer": 1, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1}
    model = GPT2LMHeadModel(GPT2Config(**sizes, attn_pdrop=0.1))
    assert choose_layout(model, "auto") == "tree"
    assert not has_tree_attention(model)
    assert choose_layout(plain := GPT2LMHeadModel(GPT2Config(**sizes, attn_pdrop=0.0)), "auto") == "tree"
    assert has_tree_attention(plain)


def test_soft_capped_heads_are_refused() -> None:
    model = make_student()
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(KidpipeError, match="soft-caps"):
        head_of(model)


def test_scaled_logits_are_refused() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    check_head(GraniteForCausalLM(GraniteConfig(**sizes, num_key_value_heads=2, logits_scaling=1.0)))
    with pytest.raises(KidpipeError, match="changes its logits"):
        check_head(GraniteForCausalLM(GraniteConfig(**sizes, num_key_value_heads=2, logits_scaling=4.0)))
