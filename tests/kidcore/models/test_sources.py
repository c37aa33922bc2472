"""Folders and Hub names in; identities, limits and clear refusals out."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from kidcore.config.digests import FileDigests
from kidcore.errors import KidpipeError
from kidcore.models.sources import UNBOUNDED, resolve

_CONFIG: dict[str, Any] = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": 435, "max_position_embeddings": 512}


def _write_model(folder: Path, config: dict[str, Any] = _CONFIG, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"w": np.frombuffer(weights, np.uint8)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache of our own, and no network."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return cache


def test_folder_states_its_limits(tmp_path: Path) -> None:
    source = resolve(str(_write_model(tmp_path / "a")))
    assert (source.max_length, source.vocab_size, source.architecture) == (512, 435, "Qwen2ForCausalLM")
    assert source.path == tmp_path / "a"
    assert source.identity.startswith("local:")


def test_identity_is_content_not_place(tmp_path: Path) -> None:
    first = resolve(str(_write_model(tmp_path / "a"))).identity
    written_elsewhere = {**_CONFIG, "_name_or_path": "x", "transformers_version": "9"}
    assert resolve(str(_write_model(tmp_path / "b", written_elsewhere))).identity == first
    assert resolve(str(_write_model(tmp_path / "c", weights=b"others"))).identity != first
    assert resolve(str(_write_model(tmp_path / "d", {**_CONFIG, "rope_theta": 5}))).identity != first


def test_files_that_no_loader_reads_are_no_part_of_the_identity(tmp_path: Path) -> None:
    folder = _write_model(tmp_path / "a")
    first = resolve(str(folder)).identity
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / "training_args.bin").write_bytes(b"arguments")
    (folder / "consolidated.safetensors").write_bytes(b"a copy")
    assert resolve(str(folder)).identity == first


def test_digest_cache_spares_reading_and_notices_changes(tmp_path: Path) -> None:
    folder, cache = _write_model(tmp_path / "a"), tmp_path / "state" / "digests.json"
    weights = folder / "model.safetensors"
    os.utime(weights, (1e9, 1e9))  # one that changed a moment ago may change again: its digest is not kept
    first = resolve(str(folder), digests=FileDigests(cache)).identity
    digests = json.loads(cache.read_text(encoding="utf-8"))
    # The file's, and that the folder was found to be whole.
    assert len(digests) == 2
    # A digest planted in the cache shows that the file was not read again.
    cache.write_text(json.dumps(dict.fromkeys(digests, "0" * 64)), encoding="utf-8")
    assert resolve(str(folder), digests=FileDigests(cache)).identity != first
    os.utime(weights, ns=(1, 1))
    assert resolve(str(folder), digests=FileDigests(cache)).identity == first


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_broken_digest_cache_is_an_empty_one(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "digests.json"
    cache.write_text(content, encoding="utf-8")
    folder = str(_write_model(tmp_path / "a"))
    assert resolve(folder, digests=FileDigests(cache)).identity == resolve(folder).identity


def test_limits_of_a_multimodal_model_are_those_of_its_language_model(tmp_path: Path) -> None:
    nested = {"architectures": ["X"], "text_config": {"vocab_size": 7, "max_position_embeddings": 9}}
    source = resolve(str(_write_model(tmp_path / "a", nested)))
    assert (source.vocab_size, source.max_length) == (7, 9)


def test_model_without_a_stated_length_is_unbounded(tmp_path: Path) -> None:
    assert resolve(str(_write_model(tmp_path / "a", {"vocab_size": 7}))).max_length == UNBOUNDED


def test_missing_folder_names_its_neighbours(tmp_path: Path) -> None:
    _write_model(tmp_path / "teacher")
    with pytest.raises(KidpipeError, match=r"model folder not found[\s\S]*teacher$"):
        resolve(str(tmp_path / "techer"))


@pytest.mark.parametrize(
    ("remove", "add", "message"),
    [
        ("config.json", "", "no config.json"),
        ("config.json", "adapter_config.json", "LoRA adapter"),
        ("model.safetensors", "", "no weights"),
    ],
)
def test_incomplete_folder_is_refused(tmp_path: Path, remove: str, add: str, message: str) -> None:
    folder = _write_model(tmp_path / "a")
    (folder / remove).unlink()
    if add:
        (folder / add).write_text("{}", encoding="utf-8")
    with pytest.raises(KidpipeError, match=message):
        resolve(str(folder))


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[]", "not a JSON object"), ("{}", "no vocab_size")])
def test_unusable_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = _write_model(tmp_path / "a")
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(KidpipeError, match=message):
        resolve(str(folder))


def test_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="revision 'v2' was given for a local folder"):
        resolve(str(_write_model(tmp_path / "a")), "v2")


def test_no_name_is_refused() -> None:
    with pytest.raises(KidpipeError, match="no model was named"):
        resolve("")


def test_hub_name_is_identified_by_its_commit(hub: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = hub / "models--lab--small-coder"
    _write_model(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    source = resolve("lab/small-coder")
    assert source.identity == f"hub:lab/small-coder@{commit}"
    assert source.path == repository / "snapshots" / commit


@pytest.mark.usefixtures("hub")
def test_unknown_name_is_refused() -> None:
    with pytest.raises(KidpipeError, match=r"no folder is called 'lab/none', and it cannot be downloaded"):
        resolve("lab/none")
