"""The parts of bench.gpu: what measures in, figures recorded one by one out. See there.

Sizes are those of Qwen2.5-0.5B and 1.5B; a step is 32 questions, gold and 4 imperfect views, as a forest in one pack unless a
name says otherwise. Every step is done twice and the second time counts; packs are cut before the clock starts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from bench.gpu import Part
from bench.gpu_bench import Bench, Record, gradients, longest_column, record_kernels, record_peak, record_steps
from bench.students import make_model
from bench.timing import Stopwatch
from kidcore.config.train_settings import TrainSettings
from kidcore.models.backends.base import ScoreRequest
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.trees import blocks, flex
from kidcore.models.trees.attention import install, uninstall
from kidcore.models.trees.tree import build_tree
from train.step import Runner
from train.student.compiled import compile_layers, layers_of


@contextmanager
def one_root() -> Iterator[None]:
    """Packs as they were: all databases share what their prompts begin with."""
    with patch("train.data.packing.build_tree", partial(build_tree, least_shared=1)):
        yield


def ceilings(bench: Bench, record: Record) -> None:
    """What the card does at most."""
    size = 1 << (30 if bench.is_gpu else 20)
    left, right = (torch.randn(size, device=bench.device) for _ in range(2))
    record("copy TB/s", 10 * 8 * size / bench.seconds(lambda: [left.copy_(right) for _ in range(10)]) / 1e12)
    record("product TFLOP/s", bench.product_rate / 1e12)


def step(bench: Bench, record: Record) -> None:
    """A step as it was, with one tree a database, and whether it computes the same bits twice."""
    trainee, steps = bench.trainee(), bench.steps(bench.repeats)
    with one_root():
        before = [trainee.runner.batcher.cut(x) for x in steps]
    after = [trainee.runner.batcher.cut(x) for x in steps]
    for name, shares in (("one tree a database", after), ("one root", before), ("one tree a database, again", after)):
        record_steps(bench, record, trainee, name, shares)
    first, second = (gradients(trainee, after[0]) for _ in range(2))
    record("gradients that differ between two runs", _different(first, second))
    del first, second
    for name, shares in (("one tree a database", after), ("one root", before)):
        record(f"{name}: longest column, blocks", max(map(longest_column, shares)))
        record_kernels(bench, record, name, lambda shares=shares: trainee.step(shares[0]))  # type: ignore[misc]


def _different(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    return [name for name in first if not torch.equal(first[name], second[name])][:20]


def padded(bench: Bench, record: Record) -> None:
    """KID as a forest against padded rows, its own and those of plain fine-tuning on the same questions."""
    trainee = bench.trainee()
    budget = bench.packs[-1]
    sft = trainee.beside(TrainSettings(method="sft", dtype="bfloat16"))
    rows = Runner(trainee.model, trainee.runner.device, "none", budget, trainee.runner.autocast_dtype)
    kid_steps, sft_steps = bench.steps(1), bench.steps(1, views=0)
    tree = bench.seconds(lambda: trainee.step(kid_steps[0]))
    record("kid, forest: ms", 1e3 * tree)
    uninstall(trainee.model)
    try:
        for name, who, examples in (("sft, padded rows", sft, sft_steps), ("kid, padded rows", trainee, kid_steps)):
            share = rows.batcher.cut(examples[0])
            seconds = bench.seconds(lambda who=who, share=share: who.step(share, rows))  # type: ignore[misc]
            record(f"{name}: ms", 1e3 * seconds)
            record(f"{name}: rows", sum(pack.num_tokens for pack in share.packs))
            record(f"kid forest over {name}", tree / seconds)
    finally:
        install(trainee.model)


def compiled(bench: Bench, record: Record) -> None:
    """Compiled layers against plain ones: cold seconds, a step, packs of new lengths, and the distance from float32."""
    trainee, steps = bench.trainee(), bench.steps(bench.repeats + 5)
    runner = trainee.runner
    shares = [runner.batcher.cut(x) for x in steps]
    few = runner.batcher.cut(steps[0][: max(2, bench.batch // 4)])
    exact = Runner(trainee.model, runner.device, "none", 4096, None)
    uninstall(trainee.model)
    wide = gradients(trainee, exact.batcher.cut(steps[0][: max(2, bench.batch // 4)]), exact)
    install(trainee.model)
    record("plain: distance of gradients from float32", _distance(gradients(trainee, few), wide))
    record_steps(bench, record, trainee, "plain", shares[: bench.repeats])
    if not bench.is_gpu:
        record("compiled", "not run: needs CUDA")
        return
    try:
        watch = Stopwatch(bench.device)
        watch.start()
        is_compiled = compile_layers(trainee.model, runner.autocast_dtype)
        watch.stop()
        record("compiled", is_compiled)
        record("cold compilation, s", watch.wall_s)
        if not is_compiled:
            return
        trainee.step(shares[0])
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        record_steps(bench, record, trainee, "compiled", shares[: bench.repeats])
        record("compiled: distance of gradients from float32", _distance(gradients(trainee, few), wide))
        del wide
        first = [_once(bench, lambda share=share: trainee.step(share)) for share in shares[bench.repeats :]]  # type: ignore[misc]
        record("compiled: first steps of new lengths, ms", [round(1e3 * x, 1) for x in first])
        record("compiled: compiled again", torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs)
        one, two = (gradients(trainee, shares[0]) for _ in range(2))
        record(
            "compiled: gradients that differ between two runs",
            [name for name in one if not torch.equal(one[name], two[name])][:9],
        )
        record_kernels(bench, record, "compiled", lambda: trainee.step(shares[0]))
    finally:
        for layer in layers_of(trainee.model):
            vars(layer).pop("forward", None)


def _once(bench: Bench, work: Callable[[], Any]) -> float:
    watch = Stopwatch(bench.device)
    watch.start()
    work()
    watch.stop()
    return watch.wall_s


def _distance(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Of all gradients together, relative."""
    apart = sum(float((found[name] - value).float().norm()) ** 2 for name, value in exact.items())
    return float((apart / sum(float(value.norm()) ** 2 for value in exact.values())) ** 0.5)


_TILES: dict[str, dict[str, int]] = {
    "torch's tiles": {},
    "64, 2 stages": {"bwd_BLOCK_M1": 64, "bwd_BLOCK_N1": 64, "bwd_BLOCK_M2": 64, "bwd_BLOCK_N2": 64, "bwd_num_stages": 2},
    "64, 3 stages": {"bwd_BLOCK_M1": 64, "bwd_BLOCK_N1": 64, "bwd_BLOCK_M2": 64, "bwd_BLOCK_N2": 64, "bwd_num_stages": 3},
    "32 and 64, 3 stages": {"bwd_BLOCK_M1": 32, "bwd_BLOCK_N1": 64, "bwd_BLOCK_M2": 64, "bwd_BLOCK_N2": 32, "bwd_num_stages": 3},
}


def attention(bench: Bench, record: Record) -> None:
    """One layer's attention, forward and backward, by the tiles of its kernels, heads shared and repeated."""
    (examples,) = bench.steps(1)
    branches = [branch for example in examples for branch in example.branches]
    databases = [example.db_id for example in examples for _ in example.branches]
    sequences = [branch.tokens for branch in branches]
    forest, tree = (build_tree(sequences, groups=databases, least_shared=least).tout for least in (64, 1))
    ways = [("forest", forest, tiles, False) for tiles in ("torch's tiles", "64, 2 stages", "64, 3 stages")]
    ways += [("forest", forest, "torch's tiles", True), ("one root", tree, "torch's tiles", False)]
    ways += [("forest", forest, "64, 2 stages", True), ("forest", forest, "32 and 64, 3 stages", False)]
    exact: list[Tensor] = []
    for name, tout, tiles, is_repeated in ways:
        label = f"{name}, {tiles}{', heads repeated' if is_repeated else ''}"
        options = {**_TILES[tiles], "bwd_num_warps": 4} if _TILES[tiles] else None
        with patch.object(flex, "KERNEL_OPTIONS", options):
            try:
                forward, whole, found = _attend(bench, tout, is_repeated)
            except Exception as error:  # tiles too large for the card, and whatever else the compiler says
                record(label, f"failed: {type(error).__name__}: {str(error)[:200]}")
                continue
        record(f"{label}: forward us", 1e6 * forward)
        record(f"{label}: both us", 1e6 * whole)
        if name == "forest":
            exact = exact or found
            record(
                f"{label}: distance from the first",
                max(float((x - y).norm() / y.norm()) for x, y in zip(found, exact, strict=True)),
            )


def _attend(bench: Bench, tout: Any, is_repeated: bool) -> tuple[float, float, list[Tensor]]:
    heads, groups, size = bench.shape.heads, bench.shape.kv_heads, bench.shape.hidden // bench.shape.heads
    generator = torch.Generator(bench.device).manual_seed(0)
    plan = flex.make_flex_plan(tout, torch.device(bench.device)) if bench.is_gpu else blocks.plan_blocks(tout)
    rows = plan.num_rows if isinstance(plan, flex.FlexPlan) else len(tout)
    inputs = [
        torch.randn(1, rows, count, size, device=bench.device, dtype=torch.bfloat16, generator=generator)
        .transpose(1, 2)
        .requires_grad_()
        for count in (heads, groups, groups)
    ]
    grad = torch.randn(1, heads, rows, size, device=bench.device, dtype=torch.bfloat16, generator=generator)

    def forward() -> Tensor:
        query, key, value = inputs
        if is_repeated:
            key, value = (x.repeat_interleave(heads // groups, dim=1) for x in (key, value))
        if isinstance(plan, flex.FlexPlan):
            return flex.attend_flex(query, key, value, plan, size**-0.5)
        return blocks.attend_blocks(query, key, value, plan, size**-0.5)

    def both() -> list[Tensor]:
        return list(torch.autograd.grad(forward(), inputs, grad))

    times = [bench.seconds(lambda work=work: [work() for _ in range(10)]) / 10 for work in (forward, both)]  # type: ignore[misc]
    return times[0], times[1], [x.float() for x in both()]


def packs(bench: Bench, record: Record) -> None:
    """Steps of many questions in packs of several sizes; the peak against what train.memory expects."""
    trainee = bench.trainee()
    batch = bench.batch * 9 // 4 // 4 * 4
    (examples,) = bench.steps(1, batch=batch)
    for size in bench.packs:
        runner = Runner(trainee.model, trainee.runner.device, trainee.runner.layout, size, trainee.runner.autocast_dtype)
        share = runner.batcher.cut(examples)
        seconds = bench.seconds(lambda runner=runner, share=share: trainee.step(share, runner))  # type: ignore[misc]
        record(f"{size}: packs", len(share.packs))
        record(f"{size}: ms", 1e3 * seconds)
        record(f"{size}: questions/s", batch / seconds)
        record_peak(bench, record, str(size), trainee, runner, share)


def lora(bench: Bench, record: Record) -> None:
    """A step of the larger student with LoRA, its frozen weights kept in bfloat16."""
    trainee = bench.trainee("lora", bench.teacher, lora_rank=16)
    runner = Runner(trainee.model, trainee.runner.device, trainee.runner.layout, bench.packs[0], trainee.runner.autocast_dtype)
    share = runner.batcher.cut(bench.steps(1)[0])
    record("ms", 1e3 * bench.seconds(lambda: trainee.step(share, runner)))
    record("packs", len(share.packs))
    record_peak(bench, record, "lora", trainee, runner, share, bench.teacher)


def scoring(bench: Bench, record: Record) -> None:
    """A teacher that scores gold and views as trees, against one padded row a request."""
    bench.give_up()
    model = make_model(bench.teacher, bench.device, seed=1).to(torch.bfloat16).eval().requires_grad_(False)
    (examples,) = bench.steps(1, batch=2 * bench.batch)
    requests = [ScoreRequest(branch.tokens, branch.start) for example in examples for branch in example.branches]
    answers: dict[str, Any] = {}
    for name in ("trees", "padded rows"):
        backend = TransformersBackend.around(model, batch_tokens=8192, max_length=4096)
        if name == "padded rows":
            backend.__dict__["_shares_prompts"] = False
        seconds = bench.seconds(lambda name=name, backend=backend: answers.update({name: list(backend.score(requests, 64))}))  # type: ignore[misc]
        record(f"{name}: questions/s", len(examples) / seconds)
        record(f"{name}: requests/s", len(requests) / seconds)
    trees, rows = (np.concatenate([x.actual_logprob for x in answers[name]]) for name in ("trees", "padded rows"))
    record("largest difference of a log-probability", float(np.abs(trees - rows).max()))


def again(bench: Bench, record: Record) -> None:
    """The first step once more: differences below its drift are noise."""
    trainee = bench.trainee()
    shares = [trainee.runner.batcher.cut(x) for x in bench.steps(bench.repeats)]
    record_steps(bench, record, trainee, "one tree a database", shares)


PARTS = [
    Part("ceilings", 10, ceilings),
    Part("step", 50, step),
    Part("padded", 20, padded),
    Part("compiled", 75, compiled),
    Part("packs", 15, packs),
    Part("attention", 40, attention),
    Part("again", 8, again),
    Part("scoring", 30, scoring),
    Part("lora", 20, lora),
]
