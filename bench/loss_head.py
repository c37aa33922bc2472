"""Time and peak memory of the LM head with its loss, forward and backward: ours against the usual ways and Liger's kernels.

    python -m bench.loss_head --json loss_head.json [--device cuda] [--full]

For KID (likelihood of gold and reverse KL to a stored top-K with its tail), three ways that give the same loss:
- ours: logits at supervised rows, in chunks, gradients formed in the forward pass (train.loss.head).
- dense: logits of every row of the pack through autograd, as trainers do that hand logits to a loss.
- supervised: the same on supervised rows only.
For fine-tuning, `ours, sft`, `dense, sft` and `supervised, sft` likewise, and on CUDA (Triton) Liger's fused linear cross
entropy over every row with masked labels, as it is used, and over supervised rows only. Liger's fused linear JSD (beta = 1:
reverse KL) runs on supervised rows; it takes the teacher's hidden states and head, of the student's size here, and compares
whole vocabularies: more work than a stored top-K, which is the point of storing it.

Float32 on the CPU; on CUDA bfloat16 products by autocast, float32 weights. A ratio below 1 is ours being faster or smaller.
Keys without a size are the worst over the sizes.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.session import Session, describe, environment, finish, open_session, run
from bench.timing import Cost, Costs, PeakMemory, Spread, Stopwatch, Turn, interleave, ratio, release, summary, table, worst
from train.loss.head import Objective, Targets, head_loss
from train.loss.losses import divergence


@dataclass(frozen=True)
class Size:
    """Rows of a pack, supervised ones among them, width, vocabulary."""

    rows: int
    slots: int
    hidden: int
    vocab: int

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.slots}x{self.hidden}x{self.vocab}"


# The vocabulary and widths of the last ones are those of Qwen2.5-0.5B and 1.5B.
SIZES = {
    "tiny": [Size(64, 16, 32, 500)],
    "quick": [Size(2048, 640, 128, 2_000), Size(2048, 640, 256, 16_000), Size(1024, 256, 896, 151_936)],
    "full": [Size(2048, 640, 256, 16_000), Size(1024, 256, 896, 151_936), Size(4096, 1024, 896, 151_936)],
    "cuda": [Size(8192, 2048, 896, 151_936), Size(8192, 2048, 1536, 151_936)],
}
TOP_K = 8
PAIRS = {
    "dense": ("ours", "dense"),
    "supervised": ("ours", "supervised"),
    "dense_sft": ("ours, sft", "dense, sft"),
    "supervised_sft": ("ours, sft", "supervised, sft"),
    "liger_sft": ("ours, sft", "liger, sft"),
    "liger_supervised_sft": ("ours, sft", "liger, supervised, sft"),
    "liger_jsd": ("ours", "liger jsd"),
}
"""Name of a ratio -> (ours, theirs)."""


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write the JSON."""
    budget_s = {"cpu": 360.0, "cuda": 90.0, "full": 3600.0}
    session = open_session("bench.loss_head", __doc__, arguments, budget_s=budget_s, rounds=7, needs_data=False)
    where = environment(session.device)
    sizes = SIZES["cuda" if session.device == "cuda" and session.size != "tiny" else session.size]
    measured: dict[str, Costs] = {}
    missing: dict[str, str] = {}
    for number, size in enumerate(sizes):
        turns, missing = make_turns(size, session.device)
        share = 1.0 / (len(sizes) - number)
        measured[size.name] = interleave(turns, rounds=session.rounds, budget_s=session.left_s * share)
        missing = missing | {way: "out of memory" for way in turns if way not in measured[size.name]}
        del turns
        release()
    _report(session, where, measured, missing)


def make_turns(size: Size, device: str) -> tuple[dict[str, Turn], dict[str, str]]:
    """The ways by name, and why others do not run here."""
    torch.manual_seed(0)
    with torch.device(device):
        hidden_RD = torch.randn(size.rows, size.hidden).requires_grad_()
        weight_VD = (torch.randn(size.vocab, size.hidden) / size.hidden**0.5).requires_grad_()
    targets = make_targets(size).to(torch.device(device))
    kid = Objective(1.0, 1.0, divergence("reverse_kl"))
    sft = Objective(1.0, 0.0, None)
    losses: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: head_loss(hidden_RD, weight_VD, None, targets, kid).loss,
        "dense": lambda: dense_loss(hidden_RD, weight_VD, targets, every_row=True),
        "supervised": lambda: dense_loss(hidden_RD, weight_VD, targets, every_row=False),
        "ours, sft": lambda: head_loss(hidden_RD, weight_VD, None, targets, sft).loss,
        "dense, sft": lambda: functional.cross_entropy(
            (hidden_RD @ weight_VD.T).float(), labels_of(targets, size), reduction="sum"
        ),
        "supervised, sft": lambda: functional.cross_entropy(
            (hidden_RD[targets.row_M] @ weight_VD.T).float(), targets.gold_M, reduction="sum"
        ),
    }
    liger, why_not = _liger_losses(hidden_RD, weight_VD, targets, size)
    turns: dict[str, Turn] = {
        way: partial(_take_turn, loss, (hidden_RD, weight_VD), device) for way, loss in (losses | liger).items()
    }
    _check_agreement({way: loss for way, loss in (losses | liger).items() if way != "liger jsd"}, device)
    return turns, dict.fromkeys(("liger, sft", "liger, supervised, sft", "liger jsd"), why_not) if why_not else {}


def make_targets(size: Size) -> Targets:
    """Each slot: a gold token and a peaked teacher over `TOP_K` ids."""
    ids = torch.stack([torch.randperm(size.vocab)[:TOP_K] for _ in range(size.slots)])
    logprobs = torch.full((size.slots, TOP_K), 0.999 / TOP_K).log()
    row = torch.randperm(size.rows)[: size.slots].sort().values
    return Targets(row, ids[:, 0].clone(), torch.full((size.slots,), TOP_K), ids, logprobs, torch.full((size.slots,), 0.001))


def labels_of(targets: Targets, size: Size) -> Tensor:
    """The gold token of each row, -100 where there is none."""
    labels_R = targets.gold_M.new_full((size.rows,), -100)
    labels_R[targets.row_M] = targets.gold_M
    return labels_R


def dense_loss(hidden_RD: Tensor, weight_VD: Tensor, targets: Targets, *, every_row: bool) -> Tensor:
    """KID's loss through autograd: -log q(gold) and reverse KL over the top-K and the tail."""
    if every_row:
        log_q_MV = torch.log_softmax((hidden_RD @ weight_VD.T).float(), dim=-1)[targets.row_M]
    else:
        log_q_MV = torch.log_softmax((hidden_RD[targets.row_M] @ weight_VD.T).float(), dim=-1)
    nll = -log_q_MV.gather(1, targets.gold_M[:, None]).sum()
    log_q_MK = log_q_MV.gather(1, targets.ids_MK)
    q_tail_M = (1 - log_q_MK.exp().sum(-1)).clamp_min(1e-8)
    reverse_M = (log_q_MK.exp() * (log_q_MK - targets.logprobs_MK)).sum(-1) + q_tail_M * (q_tail_M / targets.tail_M).log()
    return nll + reverse_M.sum()


def _liger_losses(
    hidden_RD: Tensor, weight_VD: Tensor, targets: Targets, size: Size
) -> tuple[dict[str, Callable[[], Tensor]], str]:
    """Liger's losses where they run, else why they do not."""
    if hidden_RD.device.type != "cuda":
        return {}, "not run: needs CUDA"
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss, LigerFusedLinearJSD
    except ImportError:
        return {}, "not run: pip install -e '.[bench]'"
    entropy, jsd = LigerFusedLinearCrossEntropyLoss(reduction="sum"), LigerFusedLinearJSD(jsd_beta=1.0)
    labels_R = labels_of(targets, size)
    teacher_MD, teacher_VD = hidden_RD.detach()[targets.row_M].bfloat16(), weight_VD.detach().bfloat16()

    def sft(rows: Tensor | slice, labels: Tensor) -> Tensor:
        loss: Tensor = entropy(weight_VD.bfloat16(), hidden_RD[rows].bfloat16(), labels)
        return loss

    def judged() -> Tensor:
        loss: Tensor = jsd(hidden_RD[targets.row_M].bfloat16(), weight_VD.bfloat16(), teacher_MD, teacher_VD, None)
        return loss

    return {
        "liger, sft": lambda: sft(slice(None), labels_R),
        "liger, supervised, sft": lambda: sft(targets.row_M, targets.gold_M),
        "liger jsd": judged,
    }, ""


def _check_agreement(losses: Mapping[str, Callable[[], Tensor]], device: str) -> None:
    """The ways of one objective give one loss: else their times say nothing. Warms up, too."""
    for objective in (False, True):
        values = {}
        for way, loss in losses.items():
            if way.endswith("sft") == objective:
                try:
                    with torch.no_grad(), _autocast(device):
                        values[way] = float(loss())
                except torch.OutOfMemoryError:
                    release()
        spread = max(values.values()) - min(values.values())
        assert spread < (2e-2 if device == "cuda" else 1e-3) * max(map(abs, values.values())), values


def _autocast(device: str) -> torch.autocast:
    return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")


def _take_turn(loss: Callable[[], Tensor], inputs: tuple[Tensor, ...], device: str, measure_memory: bool) -> Cost:
    def once() -> None:
        for tensor in inputs:
            tensor.grad = None
        with _autocast(device):
            value = loss()
        torch.autograd.backward(value)

    peak, watch = PeakMemory(device, wanted=measure_memory), Stopwatch(device)
    for tensor in inputs:
        tensor.grad = None
    if measure_memory:
        before_mib = torch.cuda.memory_allocated() / 2**20 if device == "cuda" else 0.0
        peak.start()
        once()
        peak.stop()
        peak.mib -= before_mib
    watch.start()
    once()
    watch.stop()
    return Cost(1, watch.wall_s, watch.cpu_s, peak.mib)


def _report(session: Session, where: dict[str, Any], measured: Mapping[str, Costs], missing: Mapping[str, str]) -> None:
    blocks = [describe(where)]
    for name, costs in measured.items():
        rows = [
            [way, f"{found['ms_per_example']:.1f}", f"{found['cpu_ms_per_example']:.1f}", f"{found['peak_mib']:,.0f}"]
            for way, found in summary(costs).items()
        ]
        blocks.append(table([f"rows x slots x width x vocabulary {name}", "ms", "CPU ms", "peak MiB above the inputs"], rows))
    blocks += [f"{way}: {why}" for way, why in missing.items()]
    wall, cpu = all_ratios(measured, "wall"), all_ratios(measured, "cpu")
    peaks = peak_ratios(measured)
    rows = [[key, str(spread), str(cpu[key]), f"{peaks[key.replace('_seconds', '_peak')]:.3f}"] for key, spread in wall.items()]
    blocks.append(table(["ratio: median (least to greatest)", "wall", "CPU seconds", "peak memory"], rows))
    figures = {
        "ratios": {key: spread.median for key, spread in wall.items()} | peaks,
        "ratios_cpu": {key: spread.median for key, spread in cpu.items()},
        "spread": {key: asdict(spread) for key, spread in wall.items()},
        "environment": where,
        "missing": dict(missing),
        "sizes": {name: summary(costs) for name, costs in measured.items()},
    }
    finish(session, figures, "\n\n".join(blocks))


def all_ratios(measured: Mapping[str, Costs], clock: Any) -> dict[str, Spread]:
    """`ours_over_X_seconds`, the worst of the sizes, and the same for each size."""
    found: dict[str, Spread] = {}
    for key, (ours, theirs) in PAIRS.items():
        by_size = {name: ratio(costs, [ours], [theirs], clock) for name, costs in measured.items()}
        if overall := worst(list(by_size.values())):
            found[f"ours_over_{key}_seconds"] = overall
        found |= {f"ours_over_{key}_seconds_{name}": spread for name, spread in by_size.items() if spread is not None}
    return found


def peak_ratios(measured: Mapping[str, Costs]) -> dict[str, float]:
    """`ours_over_X_peak`, likewise."""
    found: dict[str, float] = {}
    for key, (ours, theirs) in PAIRS.items():
        by_size = {
            name: costs[ours][0].peak_mib / costs[theirs][0].peak_mib
            for name, costs in measured.items()
            if costs.get(ours) and costs.get(theirs)
        }
        found |= {f"ours_over_{key}_peak": max(by_size.values())} if by_size else {}
        found |= {f"ours_over_{key}_peak_{name}": value for name, value in by_size.items()}
    return found


if __name__ == "__main__":
    run(main)
