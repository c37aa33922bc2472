"""Damaged model folders in, refusals that name the file and the way out, out: before anything is hashed or loaded."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from kidcore.config.digests import FileDigests
from kidcore.errors import KidpipeError
from kidcore.models.sources import require_whole, resolve

_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 988097824\n"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def _change(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return work


def _drop(weights: dict[str, torch.Tensor], part: str) -> None:
    for name in [name for name in weights if part in name]:
        del weights[name]


def _add(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """A tensor of layer 0 that config.json asks for nowhere."""
    return lambda weights: weights.update({f"model.layers.0.{name}": torch.zeros(4)})


def _widen(weights: dict[str, torch.Tensor]) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = torch.cat([weights[name], weights[name][:1]])


def _add_layer(weights: dict[str, torch.Tensor]) -> None:
    weights |= {n.replace("layers.1.", "layers.2."): x.clone() for n, x in weights.items() if "layers.1." in n}


def _cut(folder: Path, keep: float = 0.5) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def _lengthen(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")


def _point(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(_POINTER, encoding="utf-8")


def _shard(folder: Path, *, lose: str = "") -> None:
    """Two shards with their index, of which one is lost, or the index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    place = {n: f"model-0000{1 + (i >= len(names) // 2)}-of-00002.safetensors" for i, n in enumerate(names)}
    for file in set(place.values()):
        save_file({n: weights[n] for n in names if place[n] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}), encoding="utf-8")
    if lose:
        (folder / lose).unlink()


def _misplace(folder: Path) -> None:
    """The second shard is a copy of the first."""
    _shard(folder)
    shutil.copyfile(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")


def _pickle(folder: Path, part: str = "") -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({name: x for name, x in weights.items() if not part or part not in name}, folder / "pytorch_model.bin")


def _cut_pickle(folder: Path) -> None:
    _pickle(folder)
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")


def _adapter_alone(folder: Path) -> None:
    _adapter(folder)
    (folder / "model.safetensors").unlink()


def _dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "blobs" / "gone")


def _unfinished(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.safetensors.incomplete")


def _more_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 9}), encoding="utf-8")


def _quantise(weights: dict[str, torch.Tensor]) -> None:
    """What a quantisation stores, without its settings."""
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name] = (weights[name] * 100).to(torch.int8)


def _lie(folder: Path) -> None:
    """A header whose shapes do not match its bytes."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)


def _move(folder: Path) -> None:
    """A gap between two tensors."""
    data = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    begin, end = header[last]["data_offsets"]
    header[last]["data_offsets"] = [begin + 8, end + 8]
    text, at = json.dumps(header).encode(), 8 + length + begin
    whole = struct.pack("<Q", len(text)) + text + data[8 + length : at] + b"\0" * 8 + data[at:]
    (folder / "model.safetensors").write_bytes(whole)


_DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a layer missing": (_change(lambda x: _drop(x, ".layers.1.")), "lack 12 of", "model.layers.1"),
    "one bias missing": (_change(lambda x: _drop(x, "layers.0.self_attn.q_proj.bias")), "lack 1 of", "q_proj.bias"),
    "a layer too many": (_change(_add_layer), "layers that config.json does not have", "model.layers.2"),
    "a bias that nothing reads": (_change(_add("mlp.gate_proj.bias")), "would run without", "gate_proj.bias"),
    "an adapter within": (_change(_add("self_attn.q_proj.lora_A.weight")), "would run without", "lora_A"),
    "another shape": (_change(_widen), "another shape", "97 x 64, not 96 x 64"),
    "codes for weights": (_change(_quantise), "1 weights are stored as I8", "q_proj.weight"),
    "cut in half": (_cut, "damaged", "model.safetensors"),
    "cut in its header": (lambda folder: _cut(folder, 0.001), "damaged", "within its header"),
    "empty": (lambda folder: _cut(folder, 0), "damaged", "no header"),
    "too long": (_lengthen, "damaged", "header says"),
    "a gap": (_move, "damaged", "one behind the other"),
    "shapes that lie": (_lie, "damaged", "do not match its shape"),
    "a pointer": (_point("model.safetensors"), "Git LFS pointer", "git lfs pull"),
    "a tokenizer that is a pointer": (_point("tokenizer.json"), "Git LFS pointer", "tokenizer.json"),
    "a configuration that is a pointer": (_point("config.json"), "Git LFS pointer", "config.json"),
    "a shard missing": (lambda folder: _shard(folder, lose="model-00002-of-00002.safetensors"), "1 of 2 files", "model-00002"),
    "no index": (lambda folder: _shard(folder, lose="model.safetensors.index.json"), "index", "index.json"),
    "a shard twice": (_misplace, "not in the file that the index names", "model-00002"),
    "a broken index": (
        lambda folder: (_shard(folder), (folder / "model.safetensors.index.json").write_text("{")),
        "index of the weights cannot be read",
        "index.json",
    ),
    "a number of layers that is another elsewhere": (_more_layers, "contradicts itself", "num_hidden_layers"),
    "a pickle cut in half": (_cut_pickle, "damaged", "pytorch_model.bin"),
    "a pickle without a layer": (lambda folder: _pickle(folder, ".layers.1."), "lack 12 of", "pytorch_model.bin"),
    "an adapter beside the model": (_adapter, "adapter lies beside the model", "adapter_config.json"),
    "an adapter and nothing else": (_adapter_alone, "LoRA adapter, not a whole model", "merge"),
    "a link to nothing": (_dangling, "cannot be read", "model.safetensors"),
    "an unfinished download": (_unfinished, "download that has not ended", "model.safetensors.incomplete"),
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_damaged_folder_is_refused_by_name(folder: Path, damage: str) -> None:
    work, message, named = _DAMAGES[damage]
    work(folder)
    with pytest.raises(KidpipeError) as caught:
        resolve(str(folder))
    assert message in caught.value.what
    assert named in str(caught.value)
    assert str(folder) in caught.value.where
    assert caught.value.fix


@pytest.mark.parametrize("whole", [_shard, _pickle, Path.exists, _change(_add("self_attn.rotary_emb.inv_freq"))])
def test_whole_folder_is_accepted(folder: Path, whole: Callable[[Path], object]) -> None:
    whole(folder)
    assert resolve(str(folder)).identity.startswith("local:")


def test_verdict_is_remembered_and_a_change_noticed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "digests.json"
    require_whole(str(folder), FileDigests(cache))
    with monkeypatch.context() as patched:
        # Whoever looks again would have to make the model.
        patched.setattr("transformers.AutoModelForCausalLM.from_config", None)
        patched.setattr("kidcore.models.meta_model.hold_against_model", None)
        require_whole(str(folder), FileDigests(cache))
    _change(lambda x: _drop(x, ".layers.1."))(folder)
    with pytest.raises(KidpipeError, match="lack 12"):
        require_whole(str(folder), FileDigests(cache))


def test_names_that_are_no_folder_are_left_to_the_hub() -> None:
    require_whole("", FileDigests(None))
    require_whole("lab/small-coder", FileDigests(None))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_cut_is_refused(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("cut")
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(tiny_model / name, folder / name)
    size = (folder / "model.safetensors").stat().st_size
    _cut(folder, data.draw(st.integers(0, size - 1)) / size)
    with pytest.raises(KidpipeError, match="damaged"):
        resolve(str(folder))
