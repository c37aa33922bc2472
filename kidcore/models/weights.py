"""A model folder in; the names, types and shapes of its weights, read from file headers, out. Loads no torch.

A file that is cut, missing or only a pointer is refused here, in milliseconds and before anything reads gigabytes.
"""

import json
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kidcore.errors import KidpipeError

_LFS = b"version https://git-lfs"
_LONGEST_HEADER = 100 << 20
"""Bytes; safetensors itself refuses longer ones."""
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BYTES |= dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1)
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)\.(safetensors|bin)")
_AGAIN = "download or copy the model again, with all of its files"
_PULL = "fetch the content: git lfs install, then git lfs pull in that folder (or download the model again)"


@dataclass(frozen=True)
class StoredTensor:
    """What a header says of one tensor."""

    dtype: str
    """safetensors' name of it, such as "BF16"."""
    shape: tuple[int, ...]


def stored_tensors(folder: Path) -> dict[str, StoredTensor] | None:
    """Every tensor that a loader finds in `folder`, by name; None where only a pickle (.bin) could say.

    Raises:
        KidpipeError: a file is missing, cut or no file of weights; or a LoRA adapter lies there.
    """
    _refuse_adapter(folder)
    files = weight_files(folder)
    if any(path.suffix == ".bin" for path in files):
        for path in files:
            _check_pickle(path)
        return None
    places = {path: _read_header(path) for path in files}
    _check_index(folder, places)
    return {name: tensor for tensors in places.values() for name, tensor in tensors.items()}


def count_weights(folder: Path) -> int:
    """How many numbers the weights of a model are; a pickle is taken to hold two bytes for each."""
    tensors = stored_tensors(folder)
    if tensors is None:
        return sum(path.stat().st_size for path in weight_files(folder)) // 2
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads: one file, or those that an index names; else whatever looks like weights.

    Raises:
        KidpipeError: there are none, or one that is named is missing.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        whole = folder / f"{stem}.{suffix}"
        if whole.exists() or whole.is_symlink():
            return [whole]
        if index := _read_index(folder / f"{stem}.{suffix}.index.json"):
            return _named_files(folder, index)
        if shards := sorted(folder.glob(f"{stem}-*-of-*.{suffix}")):
            _check_numbers(shards)
            raise KidpipeError(
                f"the weights are in {len(shards)} files, and the index that says what is in which is missing",
                where=str(folder / f"{stem}.{suffix}.index.json"),
                fix=_AGAIN,
            )
    if found := [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith("adapter")]:
        return found
    halves = [path.name for pattern in ("*.incomplete", "*.part", "*.aria2", "*.crdownload") for path in folder.glob(pattern)]
    raise KidpipeError(
        "the model folder has no weights" + (f", only a download that has not ended: {halves[0]}" if halves else ""),
        where=str(folder),
        fix="expected model*.safetensors or pytorch_model*.bin; was the copy or download interrupted?",
    )


def _refuse_adapter(folder: Path) -> None:
    """transformers adds an adapter that lies beside a model to it where peft is installed, and vLLM never does."""
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"):
        if not (folder / name).is_file():
            continue
        has_model = any((folder / f"{x}{y}").exists() for x in _WHOLE for y in ("", ".index.json"))
        if not has_model:
            raise KidpipeError(
                "the folder holds a LoRA adapter, not a whole model",
                where=str(folder / name),
                fix="merge it into its base model first (peft: merge_and_unload, then save_pretrained)",
            )
        raise KidpipeError(
            "a LoRA adapter lies beside the model: some libraries would add it to the weights, others would not",
            where=str(folder / name),
            fix="merge it into the model (peft: merge_and_unload, then save_pretrained), or move the adapter's files elsewhere",
        )


def refuse_pointers(folder: Path) -> None:
    """Refuse whatever git left as a pointer: tokenizers and configurations are stored that way too."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size < 1024 and _first_bytes(path, len(_LFS)) == _LFS:
            size = re.search(r"size (\d+)", path.read_text(encoding="utf-8", errors="replace"))
            of = f" of {int(size[1]):,} bytes" if size else ""
            raise KidpipeError(f"{path.name} is a Git LFS pointer to a file{of}, not the file", where=str(path), fix=_PULL)


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise KidpipeError(f"{path.name} cannot be read: {error.strerror}", where=str(path), fix=_AGAIN) from error


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file name; empty where there is no index."""
    if not path.exists():
        return {}
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in names.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KidpipeError("the index of the weights cannot be read", where=str(path), fix=_AGAIN) from error


def _named_files(folder: Path, index: Mapping[str, str]) -> list[Path]:
    names = sorted(set(index.values()))
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise KidpipeError(
            f"{len(missing)} of {len(names)} files of weights are missing: {', '.join(missing[:4])}",
            where=str(folder),
            fix=_AGAIN,
        )
    return [folder / name for name in names]


def _check_numbers(shards: list[Path]) -> None:
    """Shards say how many they are."""
    for path in shards:
        matched = _SHARD.fullmatch(path.name)
        if matched and int(matched[3]) > len(shards):
            raise KidpipeError(
                f"{int(matched[3]) - len(shards)} of {int(matched[3])} files of weights are missing",
                where=str(path.parent),
                fix=_AGAIN,
            )


def _check_index(folder: Path, places: Mapping[Path, Mapping[str, StoredTensor]]) -> None:
    """Each tensor is in the file that the index names."""
    if (folder / "model.safetensors") in places:
        return
    index = _read_index(folder / "model.safetensors.index.json")
    if missing := sorted(name for name, file in index.items() if name not in places[folder / file]):
        raise KidpipeError(
            f"{len(missing)} tensors are not in the file that the index names, such as {missing[0]}",
            where=str(folder / index[missing[0]]),
            fix=_AGAIN,
        )


def _read_header(path: Path) -> dict[str, StoredTensor]:
    """The header of a safetensors file, held against the file's size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= _LONGEST_HEADER:
                raise _broken(path, f"it has {size:,} bytes and no header")
            text = file.read(length)
    except OSError as error:
        raise KidpipeError(f"the weights cannot be read: {error.strerror}", where=str(path), fix=_AGAIN) from error
    if len(text) < length:
        raise _broken(path, f"it ends within its header, after {size:,} bytes")
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = {str(name): _tensor(name, entry, path) for name, entry in header.items()}
        spans = sorted((int(entry["data_offsets"][0]), int(entry["data_offsets"][1])) for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, "its header cannot be read") from error
    end = 8 + length + max((stop for _start, stop in spans), default=0)
    if size != end:
        raise _broken(path, f"it has {size:,} bytes, and its header says {end:,}")
    # As the loader asks: without gaps, and no byte of two tensors.
    if any(start != before for (start, _stop), (_start, before) in zip(spans, [(0, 0), *spans], strict=False)):
        raise _broken(path, "its tensors do not lie one behind the other")
    return tensors


def _tensor(name: str, entry: Mapping[str, Any], path: Path) -> StoredTensor:
    tensor = StoredTensor(str(entry["dtype"]), tuple(int(size) for size in entry["shape"]))
    begin, end = entry["data_offsets"]
    if (width := _BYTES.get(tensor.dtype)) and end - begin != math.prod(tensor.shape) * width:
        raise _broken(path, f"the bytes of {name} do not match its shape")
    return tensor


def _check_pickle(path: Path) -> None:
    """torch.save writes a zip archive, whose table of contents is at its end."""
    if _first_bytes(path, 2) == b"PK" and not zipfile.is_zipfile(path):
        raise _broken(path, f"it has {path.stat().st_size:,} bytes and no end")
    if not _first_bytes(path, 1):
        raise _broken(path, "it is empty")


def _broken(path: Path, reason: str) -> KidpipeError:
    return KidpipeError(
        f"the weights are damaged: {path.name} is cut or no file of weights ({reason})", where=str(path), fix=_AGAIN
    )
