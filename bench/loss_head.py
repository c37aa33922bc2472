"""Sizes in; time and peak memory of the LM head with its loss, ours against the dense way, out.

    python -m bench.loss_head --json loss_head.json

Dense is what trainers do: logits of every row of the pack, log-softmax, the loss where a row is supervised. "Supervised" is
dense too, but on supervised rows only. Times are CPU seconds of one process and medians of interleaved repetitions.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.head import Objective, Targets, head_loss
from train.losses import divergence

# Rows of a pack, supervised slots, hidden size, vocabulary. The last is the head of Qwen2.5-0.5B.
QUICK = [(2048, 640, 128, 2_000), (2048, 640, 256, 16_000), (1024, 256, 896, 151_936)]
FULL = [*QUICK, (4096, 1024, 896, 151_936), (4096, 1024, 2048, 151_936)]
TOP_K = 8


def main() -> None:
    """Print one line a size and a way, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--full", action="store_true", help="larger packs too; needs 16 GiB of memory")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each way")
    options = parser.parse_args()
    cases = [case for size in (FULL if options.full else QUICK) for case in _measure(size, options.repeats)]
    ratios = {}
    for case in cases:
        print(f"{case['size']:>28} {case['way']:>10}  {case['seconds']:8.3f} s  {case['peak_mib']:8.0f} MiB")
        if case["way"] != "ours":
            ours = next(x for x in cases if x["way"] == "ours" and x["size"] == case["size"])
            ratios[f"ours_over_{case['way']}_seconds_{case['size']}"] = ours["seconds"] / case["seconds"]
            ratios[f"ours_over_{case['way']}_peak_{case['size']}"] = ours["peak_mib"] / case["peak_mib"]
    if options.json:
        options.json.write_text(json.dumps({"cases": cases, "ratios": ratios}, indent=2) + "\n", encoding="utf-8")


def _measure(size: tuple[int, int, int, int], repeats: int) -> list[dict[str, Any]]:
    rows, slots, hidden, vocab = size
    torch.manual_seed(0)
    hidden_RD = torch.randn(rows, hidden).requires_grad_()
    weight_VD = (torch.randn(vocab, hidden) / hidden**0.5).requires_grad_()
    targets = _targets(rows, slots, vocab)
    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: _ours(hidden_RD, weight_VD, targets),
        "dense": lambda: _dense(hidden_RD, weight_VD, targets, every_row=True),
        "supervised": lambda: _dense(hidden_RD, weight_VD, targets, every_row=False),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    losses = {}
    for _ in range(repeats):
        for way, loss in ways.items():
            hidden_RD.grad = weight_VD.grad = None
            began = time.process_time()
            value = loss()
            value.backward()  # type: ignore[no-untyped-call]
            seconds[way].append(time.process_time() - began)
            losses[way] = value.item()
    assert max(losses.values()) - min(losses.values()) < 1e-3 * abs(losses["dense"]), losses
    name = f"{rows}x{slots}x{hidden}x{vocab}"
    return [
        {"size": name, "way": way, "seconds": statistics.median(times), "peak_mib": _peak_mib(ways[way]), "loss": losses[way]}
        for way, times in seconds.items()
    ]


def _targets(rows: int, slots: int, vocab: int) -> Targets:
    ids = torch.stack([torch.randperm(vocab)[:TOP_K] for _ in range(slots)])
    logprobs = torch.full((slots, TOP_K), 0.999 / TOP_K).log()
    row = torch.randperm(rows)[:slots].sort().values
    return Targets(row, ids[:, 0].clone(), torch.full((slots,), TOP_K), ids, logprobs, torch.full((slots,), 0.001))


def _ours(hidden_RD: Tensor, weight_VD: Tensor, targets: Targets) -> Tensor:
    objective = Objective(1.0, 1.0, divergence("reverse_kl"))
    return head_loss(hidden_RD, weight_VD, None, targets, objective).loss


def _dense(hidden_RD: Tensor, weight_VD: Tensor, targets: Targets, *, every_row: bool) -> Tensor:
    """The same loss through autograd: -log q(gold) and reverse KL over the top-K and the tail."""
    if every_row:
        log_q_MV = torch.log_softmax(hidden_RD @ weight_VD.T, dim=-1)[targets.row_M]
    else:
        log_q_MV = torch.log_softmax(hidden_RD[targets.row_M] @ weight_VD.T, dim=-1)
    nll = -log_q_MV.gather(1, targets.gold_M[:, None]).sum()
    log_q_MK = log_q_MV.gather(1, targets.ids_MK)
    q_tail_M = (1 - log_q_MK.exp().sum(-1)).clamp_min(1e-8)
    reverse_M = (log_q_MK.exp() * (log_q_MK - targets.logprobs_MK)).sum(-1) + q_tail_M * (q_tail_M / targets.tail_M).log()
    return nll + reverse_M.sum()


def _peak_mib(way: Callable[[], Tensor]) -> float:
    """The most memory that tensors held at once during forward and backward, beyond the inputs."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, record_shapes=False) as profile:
        way().backward()  # type: ignore[no-untyped-call]
    held = peak = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


if __name__ == "__main__":
    main()
