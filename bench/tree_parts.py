"""A Spider folder in; what the parts of a shared-prefix step take on a GPU, out: block mask, attention, LM head, scoring.

    python -m bench.tree_parts --data spider --json tree_parts.json

Sizes are those of Qwen2.5-0.5B with random weights in bfloat16. Attention is one layer's, forward and backward.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import Qwen2Config, Qwen2ForCausalLM

from bench.examples import make_steps
from bench.kid_step import SIZES
from bench.mix import read_rows
from kidcore.models.backends.base import ScoreRequest
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.trees import flex
from kidcore.models.trees.attention import ancestor_mask
from kidcore.models.trees.tree import Tree, build_tree
from train.data.examples import TrainingExample
from train.data.packing import make_packs
from train.loss import chunk
from train.loss.head import Objective, head_loss
from train.loss.losses import divergence

HIDDEN, LAYERS, HEADS, GROUPS, INNER, VOCAB = SIZES["0.5b"]
CUDA = torch.device("cuda")
GPU_TYPE = torch.bfloat16


def main() -> None:
    """Print one line a part, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder in the Spider layout")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    rows, _ = read_rows(options.data, 2000, limit=2000)
    (examples,) = make_steps(rows[::15][:128], views=4, batch_size=128, group_size=4, rewritten=0.2, vocab_size=VOCAB)
    figures: dict[str, float] = {}
    for part in (_attention, _head, _scoring):
        for name, value in part(examples).items():
            figures[name] = value
            print(f"{name:>44} {value:12.3f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _milliseconds(work: Callable[[], Any], repeats: int = 9) -> float:
    times = []
    for number in range(repeats + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times += [time.perf_counter() - began] if number >= 2 else []
    return 1e3 * statistics.median(times)


def _attention(examples: list[TrainingExample]) -> dict[str, float]:
    return _attention_at(_tree(examples, 4096), "4096") | _attention_at(_tree(examples, 16384), "16384")


def _attention_at(tree: Tree, name: str) -> dict[str, float]:
    plan = flex.make_flex_plan(tree.tout, CUDA)
    length, tout_L = plan.num_rows, plan.tout_L
    inputs = [torch.randn(1, length, n, 64, device=CUDA, dtype=GPU_TYPE).transpose(1, 2) for n in (HEADS, GROUPS, GROUPS)]
    query, key, value = (x.requires_grad_() for x in inputs)
    mask = ancestor_mask(tout_L)
    grad = torch.randn(query.shape, device=CUDA, dtype=GPU_TYPE)
    pairs = float(mask.sum())

    def sees(_b: Any, _h: Any, q: Any, k: Any) -> Any:
        return (k <= q) & (q < tout_L[k])

    def repeated() -> Any:
        key_HLE, value_HLE = (x.repeat_interleave(HEADS // GROUPS, dim=1) for x in (key, value))
        return torch.autograd.grad(flex.attend_flex(query, key_HLE, value_HLE, plan, 0.125), inputs, grad)

    ways: dict[str, Callable[[], Any]] = {
        "flex": lambda: torch.autograd.grad(flex.attend_flex(query, key, value, plan, 0.125), inputs, grad),
        # Each key-value head in programs of its own in the backward pass, instead of one for all query heads that share it.
        "flex, heads repeated": repeated,
        "dense mask": lambda: torch.autograd.grad(
            scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True), inputs, grad
        ),
        "our block mask": lambda: flex.make_flex_plan(tree.tout, CUDA),
        "torch's block mask": lambda: create_block_mask(sees, 1, 1, length, length, device="cuda"),
    }
    found = {f"{name} {way}, ms": _milliseconds(work) for way, work in ways.items()}
    found |= {f"{name} rows": length, f"{name} allowed pairs, share": pairs / length**2}
    # 4 E operations a pair and head forward, 2.5 times that backward.
    found[f"{name} flex, TFLOP/s of allowed pairs"] = 14 * 64 * HEADS * pairs / found[f"{name} flex, ms"] / 1e9
    return found


def _tree(examples: list[TrainingExample], budget: int) -> Tree:
    """The first pack of so many rows."""
    number = next(n for n in range(1, len(examples) + 1) if n == len(examples) or _pack_rows(examples[: n + 1]) > budget)
    return build_tree([branch.tokens for example in examples[:number] for branch in example.branches])


def _pack_rows(examples: list[TrainingExample]) -> int:
    return next(make_packs(examples, "tree", 1 << 30)).num_tokens


def _head(examples: list[TrainingExample]) -> dict[str, float]:
    pack = next(make_packs(examples[:32], "tree", 1 << 30)).to(CUDA)
    weight = (torch.randn(VOCAB, HIDDEN, device=CUDA) / HIDDEN**0.5).requires_grad_()
    hidden = torch.randn(pack.num_tokens, HIDDEN, device=CUDA, dtype=GPU_TYPE).requires_grad_()
    objective = Objective(1e-3, 1e-3, divergence("reverse_kl"))

    def step() -> None:
        weight.grad = hidden.grad = None
        with torch.autocast("cuda", dtype=GPU_TYPE):
            loss = head_loss(hidden, weight, None, pack.targets, objective).loss
        loss.backward()  # type: ignore[no-untyped-call]

    found: dict[str, float] = {"head slots": len(pack.targets.row_M)}
    for name in ("compiled", "uncompiled"):
        if name == "uncompiled":
            chunk.compiled_or_plain = lambda: chunk.dense_part  # type: ignore[assignment]
        found[f"head {name}, ms"] = _milliseconds(step)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        found[f"head {name}, peak MiB"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    found["head matrix products, TFLOP"] = 6 * found["head slots"] * VOCAB * HIDDEN / 1e12
    return found


def _scoring(examples: list[TrainingExample]) -> dict[str, float]:
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        tie_word_embeddings=True,
        dtype=GPU_TYPE,
    )
    with CUDA:
        model = Qwen2ForCausalLM(config).to(GPU_TYPE).eval()
    requests = [ScoreRequest(branch.tokens, branch.start) for example in examples[:64] for branch in example.branches]
    found: dict[str, float] = {"requests": len(requests)}
    answers = {}
    for name in ("packed", "padded"):
        backend = TransformersBackend.around(model, batch_tokens=8192, max_length=4096)
        if name == "padded":
            backend.__dict__["_shares_prompts"] = False
        began = time.perf_counter()
        list(backend.score(requests[:8], 64))
        print(f"{name}: first answers after {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
        began = time.perf_counter()
        answers[name] = np.concatenate([answer.actual_logprob for answer in backend.score(requests, 64)])
        found[f"scoring {name}, requests/s"] = len(requests) / (time.perf_counter() - began)
    found["scoring, largest difference"] = float(np.abs(answers["packed"] - answers["padded"]).max())
    return found


if __name__ == "__main__":
    main()
