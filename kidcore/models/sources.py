"""A model's name or folder goes in; its local snapshot, a stable identity and its limits come out. Loads no torch."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kidcore.config.digests import FileDigests
from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError, first_line
from kidcore.models.completeness import require_complete
from kidcore.models.weights import refuse_pointers, weight_files

UNBOUNDED = 1 << 30
"""`max_length` of a model whose configuration states none."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
_NOT_IDENTITY = ("_name_or_path", "transformers_version")
"""Keys of config.json that record who wrote the file, not what the model computes."""


@dataclass(frozen=True)
class Served:
    """What is known of a model behind URLs."""

    urls: tuple[str, ...]
    model: str
    """What the servers call it."""
    scores: tuple[float, ...]
    """Of fixed sequences, see backends/served_scores.py: another model gives others."""
    tokens: int
    """Ids that those are drawn from: the tokenizer's."""
    max_length: int
    """Tokens of the longest sequence that a server takes beside one of its own."""
    max_top_k: int
    """Most log-probabilities a position that the servers give."""
    version: str
    """Of vLLM."""
    open: Callable[..., Any] = field(compare=False)
    """Gives the backend that asks them."""


@dataclass(frozen=True)
class ModelSource:
    """A model on this machine, or behind URLs.

    `identity` is equal for equal configuration and weights ("local:<digest>"), names one commit of the Hub
    ("hub:<name>@<commit>"), or stands for a served model's name, tokenizer and scores ("served:<name>@<digest>"); where it lies
    is no part of it.
    """

    name: str
    path: Path
    """Its folder; that of the tokenizer for a served model."""
    identity: str
    max_length: int
    """Tokens of the longest sequence; UNBOUNDED where the configuration states none."""
    vocab_size: int
    """Rows of the output layer, padding included."""
    architecture: str
    dtype: str
    """Precision that the weights were saved in, such as "bfloat16"; empty where the configuration does not say."""
    served: Served | None = None
    eos_id: int | None = None
    """What ends a sequence as the model's configuration has it: its tokenizer may have another. None where it does not say."""
    pad_id: int | None = None
    """The same of padding."""

    def brings(self, tokenizer: Path) -> bool:
        """Whether its identity stands for the tokenizer in this folder too; that of a folder is of configuration and weights."""
        return self.path == tokenizer and self.identity.startswith(("hub:", "served:"))


def resolve(model: str, revision: str = "", *, digests: FileDigests | None = None) -> ModelSource:
    """Find `model`, a local folder or a Hugging Face name (downloaded when it is not here yet).

    Args:
        model: local folder or Hugging Face name.
        revision: branch, tag or commit of a Hugging Face name; empty = main.
        digests: remembers the digests of weight files, so that planning does not read gigabytes again.
    """
    if not model:
        raise KidpipeError("no model was named", fix="name a local folder or a Hugging Face model")
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision:
            raise KidpipeError(
                f"revision {revision!r} was given for a local folder",
                where=str(folder),
                fix="leave revision empty: the content of a folder is its identity",
            )
        config = _checked_config(folder, digests)
        return _source(model, folder, _local_identity(folder, config, digests or FileDigests(None)), config)
    if "://" in model:
        what = "a model behind a URL only answers as the teacher of a build; this needs its files"
        raise KidpipeError(what, where=model, fix="name the folder or the Hugging Face name of the model that runs there")
    if folder.exists() or not _HUB_NAME.fullmatch(model):
        raise KidpipeError("model folder not found", where=str(folder), fix=_nearby(folder) or "check the path")
    snapshot = _download(model, revision)
    config = _checked_config(snapshot, digests)
    return _source(model, snapshot, f"hub:{model}@{snapshot.name}", config)


def tokenizer_folder(name: str, revision: str = "") -> Path:
    """The folder with the tokenizer called `name`, a local folder or a Hugging Face name; weights are not needed."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or not _HUB_NAME.fullmatch(name):
        raise KidpipeError("tokenizer folder not found", where=str(folder), fix=_nearby(folder) or "check the path")
    return _download(name, revision, with_weights=False)


def require_whole(model: str, digests: FileDigests) -> None:
    """Refuse a local folder whose configuration or weights are not whole; a name that is no folder is not looked at.

    For models that a command does not load itself, but that a later one will.
    """
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        _checked_config(folder, digests)


def _checked_config(folder: Path, digests: FileDigests | None) -> dict[str, Any]:
    config = _read_config(folder)
    require_complete(folder, digests or FileDigests(None))
    return config


def read_source(folder: Path) -> ModelSource:
    """What the configuration in a local model folder says, without reading the weights: the identity stays empty."""
    return _source(str(folder), folder, "", _read_config(folder))


def _source(name: str, path: Path, identity: str, config: dict[str, Any]) -> ModelSource:
    """Multimodal configurations keep those of the language model in `text_config`."""
    text = {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config
    vocab_size = text.get("vocab_size")
    if not isinstance(vocab_size, int) or vocab_size < 1:
        raise KidpipeError("config.json states no vocab_size", where=str(path), fix="name a causal language model")
    lengths = [text[key] for key in _LENGTH_KEYS if isinstance(text.get(key), int)]
    architectures = config.get("architectures") or [""]
    dtype = str(text.get("dtype") or text.get("torch_dtype") or "").removeprefix("torch.")
    eos, pad = _last(text.get("eos_token_id")), _last(text.get("pad_token_id"))
    longest = min(lengths, default=UNBOUNDED)
    return ModelSource(name, path, identity, longest, vocab_size, str(architectures[0]), dtype, eos_id=eos, pad_id=pad)


def _last(ids: Any) -> int | None:
    """Of several ends that a configuration names, Llama's tokenizers take the last: that of a turn."""
    named = [x for x in (ids if isinstance(ids, list) else [ids]) if isinstance(x, int) and x >= 0]
    return named[-1] if named else None


def _read_config(folder: Path) -> dict[str, Any]:
    refuse_pointers(folder)
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise KidpipeError(
                "the folder holds a LoRA adapter, not a whole model",
                where=str(folder),
                fix="merge it into its base model first (peft: merge_and_unload, then save_pretrained)",
            )
        raise KidpipeError(
            "the model folder has no config.json", where=str(folder), fix=_nearby(folder / "x") or "check the path"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise KidpipeError(f"config.json is not valid JSON: {error}", where=str(path), fix="save the model again") from error
    if not isinstance(config, dict):
        raise KidpipeError("config.json is not a JSON object", where=str(path), fix="save the model again")
    return config


def _nearby(folder: Path) -> str:
    """Name the model folders beside the missing one."""
    try:
        found = sorted(str(path.parent) for path in folder.parent.glob("*/config.json"))
    except OSError:
        found = []
    return "models in that place: " + ", ".join(found[:8]) if found else ""


def _weight_files(folder: Path) -> list[Path]:
    """The files that a loader reads; folders also hold consolidated copies, optimizer states and the like."""
    patterns = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin")
    return next((found for pattern in patterns if (found := sorted(folder.glob(pattern)))), weight_files(folder))


def _local_identity(folder: Path, config: dict[str, Any], digests: FileDigests) -> str:
    weights = {path.name: digests.digest(path) for path in _weight_files(folder)}
    digests.save()
    kept = {key: value for key, value in config.items() if key not in _NOT_IDENTITY}
    return "local:" + fingerprint({"config": json.dumps(kept, sort_keys=True), "weights": weights})


def _download(name: str, revision: str, *, with_weights: bool = True) -> Path:
    """The snapshot folder of a Hugging Face model; its name is the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    files = _HUB_FILES if with_weights else [pattern for pattern in _HUB_FILES if pattern != "*.safetensors"]
    try:
        snapshot = Path(snapshot_download(name, revision=revision or None, allow_patterns=files))
        if with_weights and not any(snapshot.glob("*.safetensors")):
            snapshot = Path(
                snapshot_download(name, revision=revision or None, allow_patterns=[*_HUB_FILES, "pytorch_model*.bin"])
            )
        return snapshot
    except GatedRepoError as error:
        raise KidpipeError(
            f"access to {name} must be granted first", fix="accept its licence on its page, then: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise KidpipeError(
            f"no folder and no Hugging Face model is called {name!r}", fix=_nearby(Path(name)) or "check the name"
        ) from error
    except RevisionNotFoundError as error:
        raise KidpipeError(f"{name} has no revision {revision!r}", fix="leave revision empty for main") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise KidpipeError(
            f"no folder is called {name!r}, and it cannot be downloaded: {first_line(error).rstrip('.')}",
            where=os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
            fix=_nearby(Path(name)) or "check the name and the connection, or name a local folder",
        ) from error
