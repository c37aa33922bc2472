"""The demo on pre-trained models, told with two models of two layers."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from kidcore.errors import KidpipeError
from kidpipe.commands import demo_real
from kidpipe.commands.demo_real import RealDemo, check_pair
from kidpipe.commands.demo_real import demo_real as run_demo
from kidpipe.demo.models import make_model, train_tokenizer
from kidpipe.demo.recipe import QUICK_REAL


def _run(folder: Path, teacher: Path, student: Path) -> dict[str, object]:
    return run_demo(folder, str(teacher), str(student), quick=True, backend="transformers", verbose=False, as_json=True)


@pytest.mark.slow
def test_the_whole_story_is_told(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = _run(tmp_path / "demo", tiny_model, tiny_model)
    assert json.loads(capsys.readouterr().out) == summary
    assert json.loads((tmp_path / "demo" / "summary.json").read_text()) == summary
    assert list(summary["models"]) == ["teacher", "start", "sft", "kid"]  # type: ignore[call-overload]
    for run in ("sft", "kid"):
        log = [json.loads(line) for line in (tmp_path / "demo" / "runs" / run / "log.jsonl").read_text().splitlines()]
        assert (log[0]["kind"], log[0]["step"]) == ("eval", 0)
    assert list(summary["gains"]) == ["sft - start", "kid - start", "kid - sft"]  # type: ignore[call-overload]


def test_what_is_no_model_folder_is_refused_before_anything_is_made(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    with pytest.raises(KidpipeError, match="there is no folder Qwen/Qwen2"):
        _run(out, tiny_model, Path("Qwen/Qwen2.5-Coder-0.5B"))
    with pytest.raises(KidpipeError, match="no folder of a model"):
        _run(out, tmp_path, tiny_model)
    assert not out.exists()


def test_models_that_read_text_otherwise_are_refused_before_anything_is_made(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["SELECT name FROM singer", "How many singers are there?"] * 3, 300)
    sizes = {"hidden_size": 64, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate": 64}
    make_model(tokenizer, **sizes, max_length=512, seed=0).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    with pytest.raises(KidpipeError, match="differently"):
        _run(tmp_path / "demo", tiny_model, tmp_path / "student")
    assert not (tmp_path / "demo" / "data").exists()


def test_cut_weights_are_refused_at_once(tiny_model: Path, tmp_path: Path) -> None:
    Qwen2ForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path / "cut")
    PreTrainedTokenizerFast.from_pretrained(tiny_model).save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(KidpipeError):
        _run(tmp_path / "demo", tiny_model, tmp_path / "cut")
    assert not (tmp_path / "demo" / "data").exists()


def test_a_student_too_large_for_the_memory_is_refused_at_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RealDemo(tmp_path, tiny_model, tiny_model, QUICK_REAL, "transformers", verbose=False)
    monkeypatch.setattr(demo_real, "free_bytes", lambda _device: 1000)
    with pytest.raises(KidpipeError, match="teacher's weights"):
        check_pair(run)
    monkeypatch.undo()
    monkeypatch.setattr("train.memory.free_bytes", lambda _device: 1 << 20)
    with pytest.raises(KidpipeError, match="training step would take"):
        check_pair(run)
