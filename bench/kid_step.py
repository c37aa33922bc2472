"""A Spider folder and the sizes of a model in; seconds and peak memory of optimiser steps by layout and attention, out.

    python -m bench.kid_step --data spider --device cuda --json kid_step.json
    python -m bench.kid_step --data spider --size 0.5b --dtype bfloat16 --batch 8 --views 1 2 --only tree padded-sft
    python -m bench.kid_step --data spider --size 1.5b --dtype bfloat16 --views 1 --only tree --pack-tokens 2048 --lora-rank 16

One KID step (gold and imperfect views) as a tree with the device's tree attention, as a tree under a dense mask, and as one
padded row a sequence; beside it plain SFT on the same examples, one padded row each, and as a tree. Random weights of the Qwen2
architecture; forward, backward and AdamW; the ways take turns, and medians are shown. `floor` is the time that the
matrix products alone take at the rate measured for a large one. On a GPU each step is done twice, and the second time counts:
kernels and memory are there by then. On a CPU sizes stay new from step to step, in a run too, so each is done once; the JSON has
each step's seconds and rows, as steps of unlike examples compare by rows alone.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from bench.examples import make_steps
from bench.mix import read_rows
from kidcore.allocator import flat_memory
from kidcore.config.train_settings import TrainSettings
from kidcore.models.trees.attention import has_tree_attention, install, uninstall
from kidcore.models.trees.layout import PackLayout
from train.data.examples import TrainingExample
from train.loss.losses import divergence
from train.step import Runner, RunObjective
from train.student.adapters import add_adapters, keep_frozen_cast
from train.student.layout import choose_layout

# Hidden size, layers, heads, key-value heads, inner size, vocabulary.
SIZES = {
    "tiny": (256, 4, 4, 2, 768, 4_000),
    # A quarter of the layers and of the vocabulary: the same shares of trunk, head and optimiser in a quarter of the time.
    "0.5b-quarter": (896, 6, 14, 2, 4864, 37_984),
    "0.5b": (896, 24, 14, 2, 4864, 151_936),
    "1.5b": (1536, 28, 12, 2, 8960, 151_936),
}
KID = RunObjective(1.0, 1.0, divergence("reverse_kl"))
SFT = RunObjective(1.0, 0.0, None)
_WAYS = {
    "tree": "tree",
    "dense": "tree, dense mask,",
    "padded-kid": "padded rows",
    "padded-sft": "padded rows",
    "tree-sft": "tree",
}


def main() -> None:
    """Print one line a way, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder in the Spider layout")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", default="tiny", choices=sorted(SIZES))
    parser.add_argument("--batch", type=int, default=32, help="examples a step")
    parser.add_argument("--views", type=int, nargs="+", default=[4], help="imperfect views an example, each measured")
    parser.add_argument("--only", nargs="+", choices=_WAYS, default=list(_WAYS), help="ways to take")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16"], help="auto: bfloat16 on a GPU, else float32")
    parser.add_argument("--pack-tokens", type=int, nargs="+", default=[4096], help="budgets, each measured")
    parser.add_argument(
        "--lora-rank", type=int, default=0, help="rank of adapters on all linear layers; 0: all weights are trained"
    )
    parser.add_argument("--profile", type=Path, help="where to write the kernels of one tree step, slowest first")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each way, each on other examples")
    options = parser.parse_args()
    bench = _Bench(options)
    with flat_memory():
        cases = [case for pack_tokens in options.pack_tokens for case in bench.measure(pack_tokens, options.only)]
    for case in cases:
        print(
            f"{case['pack_tokens']:6} {case['way']:>22} {case['seconds'] * 1e3:9.1f} ms"
            f" ({case['best'] * 1e3:.1f} to {case['worst'] * 1e3:.1f})"
            f"  processor {case['cpu_s'] * 1e3:9.1f} ms"
            f"  first time {case['first'] * 1e3:8.1f} ms  floor {case['floor'] * 1e3:7.1f} ms"
            f"  {case['trunk_tokens']:8.0f} tokens  {case['peak_mib']:8.0f} MiB"
        )
    ratios = _ratios(cases)
    print(json.dumps(ratios, indent=2))
    if options.profile:
        options.profile.write_text(bench.profile(options.pack_tokens[-1]), encoding="utf-8")
    if options.json:
        figures = {"options": {k: str(v) for k, v in vars(options).items()}, "flops_s": bench.rate, "torch": torch.__version__}
        options.json.write_text(json.dumps(figures | {"cases": cases, "ratios": ratios}, indent=2) + "\n", encoding="utf-8")


def _ratios(cases: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Of each KID tree over each other way on the same questions, in processor seconds: median, least and most of the rounds."""
    found = {}
    for mine in (case for case in cases if case["way"].startswith("kid tree of")):
        for other in cases:
            if other["pack_tokens"] == mine["pack_tokens"] and other is not mine:
                rounds = sorted(one / two for one, two in zip(mine["cpu_rounds"], other["cpu_rounds"], strict=True))
                found[f"{mine['way']} over {other['way']}, {mine['pack_tokens']}"] = [
                    statistics.median(rounds),
                    rounds[0],
                    rounds[-1],
                ]
    return found


class _Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.dtype = torch.bfloat16 if options.device == "cuda" or options.dtype == "bfloat16" else None
        hidden, layers, heads, groups, inner, vocab = SIZES[options.size]
        torch.manual_seed(0)
        with self.device:
            causal = Qwen2ForCausalLM(
                Qwen2Config(
                    vocab_size=vocab,
                    hidden_size=hidden,
                    intermediate_size=inner,
                    num_hidden_layers=layers,
                    num_attention_heads=heads,
                    num_key_value_heads=groups,
                    tie_word_embeddings=True,
                )
            ).train()
            if options.lora_rank:
                # As published weights are: only those that bfloat16 holds are kept in it.
                causal.to(torch.bfloat16).to(torch.float32)
            self.model = add_adapters(causal, TrainSettings(lora_rank=options.lora_rank)) if options.lora_rank else causal
        self.optimizer = torch.optim.AdamW((x for x in self.model.parameters() if x.requires_grad), lr=1e-6, fused=True)
        rows, _ = read_rows(options.data, 2000, limit=2000)
        rows = rows[:: max(1, len(rows) // (options.batch * (options.repeats + 2)))]
        mix = {"batch_size": options.batch, "group_size": 4, "rewritten": 0.2, "vocab_size": vocab}
        self.kid = {views: make_steps(rows, views=views, **mix) for views in options.views}
        self.sft = make_steps(rows, views=0, **mix)
        self.repeats = options.repeats
        self.head_size, self.trunk_size = vocab * hidden, sum(p.numel() for p in causal.model.layers.parameters())
        self.rate = _matrix_rate(self.device, self.dtype or torch.float32)
        assert choose_layout(self.model, "auto", self.dtype) == "tree"
        if options.lora_rank and self.dtype is not None:
            keep_frozen_cast(self.model, self.dtype)
        self.has_tree = has_tree_attention(self.model)

    def _ways(self, only: list[str]) -> dict[str, tuple[PackLayout, bool, RunObjective, list[list[TrainingExample]]]]:
        kinds: dict[str, tuple[PackLayout, bool]] = {
            "tree": ("tree", True),
            "dense": ("tree", False),
            "padded-kid": ("none", False),
        }
        if not self.has_tree:
            del kinds["dense"]
        ways = {
            f"kid {_WAYS[kind]} of {views} views": (*kinds[kind], KID, steps)
            for views, steps in self.kid.items()
            for kind in kinds
            if kind in only
        }
        sft: dict[str, tuple[PackLayout, bool]] = {"padded-sft": ("none", False), "tree-sft": ("tree", True)}
        return ways | {f"sft {_WAYS[kind]}": (*sft[kind], SFT, self.sft) for kind in sft if kind in only}

    def measure(self, pack_tokens: int, only: list[str]) -> list[dict[str, Any]]:
        """The figures of each way."""
        ways = self._ways(only)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for number in range(self.repeats + 1):
            for way, (layout, uses_tree, recipe, steps) in ways.items():
                (install if uses_tree and self.has_tree else uninstall)(self.model)
                figures = self._step(steps[number], layout, recipe, pack_tokens)
                figures["first"] = figures["seconds"]
                if self.device.type == "cuda":
                    # Once more: with sizes seen before, neither kernels nor memory are asked for anew.
                    figures = self._step(steps[number], layout, recipe, pack_tokens) | {"first": figures["first"]}
                # The first round compiles kernels and fills allocators.
                found[way] += [figures] if number else []
                print(
                    f"round {number}: {way}, {figures['seconds']:.3f} s, {figures['cpu_s']:.3f} of a processor",
                    file=sys.stderr,
                    flush=True,
                )
        return [{"pack_tokens": pack_tokens, **self._summary(way, runs)} for way, runs in found.items()]

    def profile(self, pack_tokens: int) -> str:
        """The kernels of one KID step as a tree."""
        if self.has_tree:
            install(self.model)
        with torch.profiler.profile() as profile:
            self._step(next(iter(self.kid.values()))[0], "tree", KID, pack_tokens)
        order = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        return str(profile.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=90))

    def _step(
        self, examples: list[TrainingExample], layout: PackLayout, recipe: RunObjective, pack_tokens: int
    ) -> dict[str, float]:
        runner = Runner(self.model, self.device, layout, pack_tokens, self.dtype)
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        busy = time.process_time()
        seconds, figures = _timed(self.device, lambda: (runner.accumulate(examples, recipe), self.optimizer.step())[0])
        busy = time.process_time() - busy
        peak = _peak_mib(self.device)
        supervised = figures.counts.mle + figures.counts.kd
        floor = 6 * (figures.trunk_tokens * self.trunk_size + supervised * self.head_size) / self.rate
        return {
            "seconds": seconds,
            "cpu_s": busy,
            "peak_mib": peak,
            "trunk_tokens": figures.trunk_tokens,
            "floor": floor,
            "packs": figures.packs,
        }

    def _summary(self, way: str, runs: list[dict[str, float]]) -> dict[str, Any]:
        times = [run["seconds"] for run in runs]
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        cpu = [run["cpu_s"] for run in runs]
        return {"way": way, "best": min(times), "worst": max(times), **medians, "cpu_rounds": cpu, "rounds": runs}


def _peak_mib(device: torch.device) -> float:
    """Of the step on a GPU; the process's largest resident set so far on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of one large matrix product, in the precision of training."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    nn.functional.linear(left, right)
    seconds = statistics.median(_timed(device, lambda: nn.functional.linear(left, right))[0] for _ in range(7))
    return 2 * size**3 / seconds


if __name__ == "__main__":
    main()
