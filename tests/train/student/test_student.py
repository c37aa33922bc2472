"""A student's folder in and out: what was trained, in the precision it was stored in, with everything that lay beside it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from tests.train.small import make_student, save_small_student
from train.student.student import check_student, copy_student, load_student, save_student, student_state

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small student in bfloat16."""
    folder = tmp_path_factory.mktemp("stored")
    save_small_student(folder)
    make_student().to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_a_student_trains_in_float32_and_goes_back_as_it_was_stored(stored: Path, tmp_path: Path) -> None:
    model = load_student(stored, CPU, TrainSettings())
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    state = student_state(model, stored)
    companions = tmp_path / "prompt"
    (companions / "templates").mkdir(parents=True)
    (companions / "templates" / "compact.jinja").write_text("{{ question }}")
    out = tmp_path / "out"
    out.mkdir()
    save_student(model, state, stored, out, companions)
    before, after = load_file(stored / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys(), "tied weights are stored once, as before"
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == torch.bfloat16 for name in before)
    assert (out / "templates" / "compact.jinja").read_text() == "{{ question }}"
    tokenizer = {path.name for path in stored.iterdir()} - {path.name for path in out.iterdir()}
    assert not tokenizer, "every file that lay beside the weights is there"
    assert getattr(model.config, "dtype", None) == torch.float32, "what trains on is left as it was"


def test_a_copy_of_the_start_is_byte_for_byte(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (stored / "notes.txt").write_text("mine")
    copy_student(stored, tmp_path / "copy")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert {"config.json", "model.safetensors"} <= names
    assert "notes.txt" not in names
    assert all((tmp_path / "copy" / name).read_bytes() == (stored / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
        ({"quantization_config": {"quant_method": "of another library"}}, "quantised"),
        ({"quantization_config": {}}, "quantised"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "type t5 is no causal language model"),
        ({"model_type": "nonesuch"}, "cannot be loaded"),
        ({"final_logit_softcapping": 30.0}, "soft-caps its logits"),
        ({"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}, r"it does not know rope_(scaling|parameters)\.\w+ = 'spiral'"),
        ({"hidden_act": "sulk"}, "it does not know hidden_act = 'sulk'"),
        ({"model_type": "bloom", "architectures": ["BloomForCausalLM"]}, "models of type bloom have no attention"),
    ],
)
def test_what_can_t_be_trained_is_refused_before_anything_is_made(changes: dict[str, object], what: str, tmp_path: Path) -> None:
    save_small_student(tmp_path)
    check_student(tmp_path, TrainSettings())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(KidpipeError, match=what) as caught:
        check_student(tmp_path, TrainSettings())
    assert caught.value.fix


def test_layers_that_are_to_get_adapters_and_are_not_there_are_told_before_anything_is_made(tmp_path: Path) -> None:
    save_small_student(tmp_path)
    check_student(tmp_path, TrainSettings(lora_rank=2, lora_targets="q_proj,v_proj"))
    with pytest.raises(KidpipeError, match="no layer is called v_prj") as caught:
        check_student(tmp_path, TrainSettings(lora_rank=2, lora_targets="q_proj,v_prj"))
    assert "v_proj" in caught.value.fix


def test_weights_that_transformers_does_not_look_for_are_refused(tmp_path: Path) -> None:
    save_small_student(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    with pytest.raises(KidpipeError, match=r"weights\.safetensors"):
        check_student(tmp_path, TrainSettings())


def test_a_head_of_its_own_is_told_from_a_tied_one_by_the_saved_configuration(tmp_path: Path) -> None:
    """Embeddings that the configuration calls tied, and a head beside them that is another."""
    start, out = save_small_student(tmp_path / "start"), tmp_path / "out"
    weights = load_file(start / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, start / "model.safetensors", metadata={"format": "pt"})
    model = load_student(start, CPU, TrainSettings())
    save_student(model, student_state(model, start), start, out)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert load_file(out / "model.safetensors").keys() == weights.keys()


@pytest.mark.parametrize("named", ["int8", "float8_e4m3fn", None])
def test_what_was_learnt_is_never_saved_in_eight_bits(tmp_path: Path, named: str | None) -> None:
    start, out = save_small_student(tmp_path / "start"), tmp_path / "out"
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps(config | {"dtype": named}))
    model = load_student(start, CPU, TrainSettings())
    save_student(model, student_state(model, start), start, out)
    assert {weight.dtype for weight in load_file(out / "model.safetensors").values()} == {torch.float32}
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"


def test_settings_for_generating_are_kept_even_where_they_contradict_each_other(tmp_path: Path) -> None:
    start, out = save_small_student(tmp_path / "start"), tmp_path / "out"
    written = b'{"do_sample": false, "temperature": 0.7, "eos_token_id": [0, 2]}'
    (start / "generation_config.json").write_bytes(written)
    model = load_student(start, CPU, TrainSettings())
    before = model.generation_config
    save_student(model, student_state(model, start), start, out)
    assert (out / "generation_config.json").read_bytes() == written
    assert model.generation_config is before


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="the student cannot be loaded") as caught:
        load_student(tmp_path, CPU, TrainSettings())
    assert caught.value.where == str(tmp_path)
    assert "\n" not in caught.value.what
