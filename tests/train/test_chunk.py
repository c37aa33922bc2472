"""The compiled part of the loss against the same uncompiled; and the whole head on a GPU against the CPU's.

On a CPU the function is traced as it is on a GPU, and torch's own operators run the trace.
"""

import math
from collections.abc import Iterator

import pytest
import torch

from tests.kidcore.models.trees.drawing import CUDA
from train.loss import chunk
from train.loss.chunk import Slots, chunk_loss
from train.loss.head import Objective, Targets, chunk_slots, head_loss
from train.loss.losses import divergence

SIZES = ((128, 8), (64, 3), (192, 17), (256, 2))


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    torch._dynamo.reset()
    yield torch.device(request.param)
    torch._dynamo.reset()
    chunk.compiled_or_plain.cache_clear()


def draw_targets(slots: int, top_k: int, rows: int, vocab: int) -> Targets:
    gold = torch.where(torch.rand(slots) < 0.3, -1, torch.randint(vocab, (slots,)))
    count = torch.where(torch.rand(slots) < 0.2, 0, torch.randint(1, top_k + 1, (slots,)))
    ids = torch.stack([torch.randperm(vocab)[:top_k] for _ in range(slots)])
    ids = torch.where(torch.arange(top_k) < count[:, None], ids, torch.where(count > 0, ids[:, 0], 0)[:, None])
    logprobs = torch.log_softmax(2 * torch.randn(slots, top_k + 1), -1)
    return Targets(torch.randint(rows, (slots,)), gold, count, ids, logprobs[:, :-1].contiguous(), logprobs[:, -1].exp())


def run_chunk(
    part: chunk.DensePart, logits: torch.Tensor, slots: Slots, name: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    monkeypatch.setattr(chunk, "_inner", lambda _: part)
    scales = (torch.full((), 0.01, device=logits.device), torch.full((), 0.02, device=logits.device))
    grad = logits.clone()
    torch._dynamo.mark_static(grad, 1)
    mle, kd = chunk_loss(grad, slots, scales, divergence(name) if name else None, True)
    return mle, kd, grad


@pytest.mark.parametrize("name", ["reverse_kl", ""])
def test_compiled_is_what_uncompiled_is_and_is_compiled_once(
    device: torch.device, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    backend = "aot_eager" if device.type == "cpu" else "inductor"
    compiled = torch.compile(chunk.dense_part, dynamic=True, fullgraph=True, backend=backend)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for size, top_k in SIZES:
        slots = draw_targets(size, top_k, 5, 300).to(device).chunk(0, size)
        logits = 4 * torch.randn(size, 300, device=device)
        expected = run_chunk(chunk.dense_part, logits, slots, name, monkeypatch)
        found = run_chunk(compiled, logits, slots, name, monkeypatch)
        for mine, theirs in zip(found, expected, strict=True):
            assert (mine - theirs).norm() <= 2e-6 * theirs.norm()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 2e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon", ""])
def test_a_gpu_gives_what_the_cpu_gives(name: str, dtype: torch.dtype | None, tolerance: float) -> None:
    torch.manual_seed(1)
    objective = Objective(0.7, 1.3, divergence(name) if name else None)
    for slots, top_k in ((1, 1), (70, 1), (700, 5)):
        targets = draw_targets(slots, top_k, 50, 1000)
        values = (torch.randn(50, 64), torch.randn(1000, 64) / 8, torch.randn(1000))
        results = []
        for place in ("cpu", "cuda"):
            inputs = [x.clone().to(place).requires_grad_() for x in values]
            with torch.autocast(place, dtype=dtype, enabled=dtype is not None and place == "cuda"):
                result = head_loss(*inputs, targets.to(torch.device(place)), objective)
            result.loss.backward()
            results.append([result.loss.detach().cpu(), *(x.grad.cpu() for x in inputs if x.grad is not None)])
        for mine, theirs in zip(results[1], results[0], strict=True):
            assert (mine - theirs).norm() <= tolerance * theirs.norm() + 1e-6


def test_chunks_on_a_gpu_are_equal_and_of_whole_tiles() -> None:
    gpu = torch.device("cuda")
    for slots in (1, 63, 64, 65, 1000, 1767, 5000):
        size = chunk_slots(slots, 151_936, torch.bfloat16, gpu)
        assert size % 64 == 0
        assert size * 151_936 * 2 <= 512 << 20
        assert size * math.ceil(slots / size) - slots < 64 * math.ceil(slots / size)


def test_padded_targets_learn_the_same() -> None:
    torch.manual_seed(2)
    targets = draw_targets(70, 1, 9, 40)
    objective = Objective(0.7, 1.3, divergence("reverse_kl"))
    results = []
    for given in (targets, targets.padded(128)):
        generator = torch.Generator().manual_seed(3)
        hidden = torch.randn(9, 8, generator=generator).requires_grad_()
        weight = torch.randn(40, 8, generator=generator)
        result = head_loss(hidden, weight, None, given, objective)
        result.loss.backward()
        results.append((result.loss.detach(), hidden.grad))
    assert targets.padded(128).ids_MK.shape == (128, 2)
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-6)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-6)
