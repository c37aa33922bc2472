"""What a scored request costs outside the model, by the prompt's length: vLLM's lists of every row, and the last rows as arrays.

python -m bench.front_end --json front_end.json

The model has one narrow layer, so that what is left of a request's time is mostly vLLM's front end and ours. The rows of a step
go through the front end once alone too, on made tensors: that figure has no model in it at all.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers import Qwen2Config, Qwen2ForCausalLM

from bench.timing import table
from kidcore.config.config import EngineSettings
from kidcore.models.backends import vllm_rows
from kidcore.models.backends.base import ScoreRequest
from kidcore.models.backends.vllm import VllmBackend

_VOCABULARY = 512


def main(
    lengths: str = "512,2048,8192",
    rows: Annotated[int, typer.Option(help="Scored positions of a request.")] = 60,
    top_k: int = 64,
    requests: int = 8,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Score a few requests of each length both ways."""
    sizes = [int(length) for length in lengths.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        config = Qwen2Config(
            vocab_size=_VOCABULARY,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            max_position_embeddings=max(sizes),
            dtype="float32",
        )
        Qwen2ForCausalLM(config).save_pretrained(folder)
        backend = VllmBackend(
            folder,
            EngineSettings(device="cpu", kv_cache_mib=64),
            dtype="float32",
            max_top_k=top_k,
            max_length=max(sizes),
            vocab_size=_VOCABULARY,
        )
        assert backend._cuts_rows, "the hook is not in use"
        found = [_measure(backend, length, rows, top_k, requests) for length in sizes]
        backend.close()
    figures = {"rows": rows, "top_k": top_k, "requests": requests, "load": os.getloadavg()[0], "lengths": found}
    if out:
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    names = ["front end before", "front end after", "request before", "request after"]
    keys = ["front_end_lists_ms", "front_end_rows_ms", "request_lists_ms", "request_rows_ms"]
    print(table(["prompt tokens", *names], [[str(row["tokens"]), *(f"{row[key]:.3g} ms" for key in keys)] for row in found]))
    print(f"load {figures['load']:.1f}")


def _measure(backend: VllmBackend, length: int, rows: int, top_k: int, count: int) -> dict[str, float]:
    rng = np.random.default_rng(length)
    asked = [ScoreRequest(rng.integers(0, _VOCABULARY, length, dtype=np.int32), length - rows) for _ in range(count)]
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(3):
        for cuts in (False, True):
            backend._cuts_rows = cuts
            started = time.perf_counter()
            list(backend.score(asked, top_k))
            if turn:  # the first warms up
                times[cuts].append((time.perf_counter() - started) * 1e3 / count)
    return {
        "tokens": length,
        "front_end_lists_ms": _front_end_ms(length, top_k, None),
        "front_end_rows_ms": _front_end_ms(length, top_k, rows),
        "request_lists_ms": min(times[False]),
        "request_rows_ms": min(times[True]),
    }


def _front_end_ms(length: int, top_k: int, rows: int | None) -> float:
    """The median of what vLLM's processor of log-probabilities takes for one prompt."""
    from vllm import SamplingParams
    from vllm.v1.engine.logprobs import LogprobsProcessor
    from vllm.v1.outputs import LogprobsTensors

    width = top_k + 9  # the token that stands there, and eight for ties
    wanted: dict[str, Any] = vllm_rows.asking_for(rows) if rows else {}
    params = SamplingParams(prompt_logprobs=width - 1, flat_logprobs=True, **wanted)
    tensors = LogprobsTensors(
        torch.zeros((length - 1, width), dtype=torch.int32),
        torch.zeros((length - 1, width)),
        torch.zeros(length - 1, dtype=torch.int32),
    )
    times = []
    for _ in range(9):
        processor = LogprobsProcessor.from_new_request(None, SimpleNamespace(sampling_params=params))
        started = time.perf_counter()
        processor._update_prompt_logprobs(tensors)
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


if __name__ == "__main__":
    typer.run(main)
