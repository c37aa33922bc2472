"""A student's folder in and out: what was trained, in the precision it was stored in, with everything that lay beside it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kidcore.config.config import TrainSettings
from kidcore.errors import KidpipeError
from tests.train.small import make_student, save_small_student
from train.student.student import copy_student, load_student, save_student, student_state

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


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="the student cannot be loaded") as caught:
        load_student(tmp_path, CPU, TrainSettings())
    assert caught.value.where == str(tmp_path)
    assert "\n" not in caught.value.what
