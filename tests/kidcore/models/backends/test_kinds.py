"""Kinds of models by their configuration alone: known, known for something else, and unknown."""

import json
from pathlib import Path
from typing import Any

import pytest

from kidcore.errors import KidpipeError
from kidcore.models.backends.kinds import require_known


def folder_of(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma3"])
def test_language_models_are_known(tmp_path: Path, engine: str, kind: str) -> None:
    require_known(folder_of(tmp_path, model_type=kind), engine)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "nonesuch"}, "nonesuch"),
        ({"model_type": "vit"}, "a model of type vit is no causal language model"),
        ({}, "model_type"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}}, "custom code"),
    ],
)
def test_others_are_refused_with_their_place(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    with pytest.raises(KidpipeError, match=said) as caught:
        require_known(folder_of(tmp_path, **config), "transformers")
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}, r"does not know rope_scaling\.rope_type = 'spiral'"),
        ({"hidden_act": "sulk"}, "does not know hidden_act = 'sulk'"),
    ],
)
def test_words_without_a_meaning_are_told_before_the_model_is_loaded(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = folder_of(tmp_path, model_type="qwen2", num_hidden_layers=2, **changes)
    with pytest.raises(KidpipeError, match=said):
        require_known(folder, "transformers")
    require_known(folder, "vllm")  # which has rotations of its own


@pytest.mark.engine
@pytest.mark.vllm
def test_vllm_knows_kinds_that_transformers_does_not(tmp_path: Path) -> None:
    require_known(folder_of(tmp_path, model_type="deepseek_v32"), "vllm")
    with pytest.raises(KidpipeError, match="vllm cannot load the model"):
        require_known(folder_of(tmp_path, model_type="nonesuch"), "vllm")
