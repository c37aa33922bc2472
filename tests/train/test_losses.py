"""Every divergence and the LM-head loss against a dense float64 reference, value and gradient."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from train.loss.head import Objective, Targets, chunk_slots, head_loss, slice_slots
from train.loss.losses import MIN_TEACHER_TAIL, divergence

BETA = 0.3
NAMES = ["forward_kl", "reverse_kl", "jensen_shannon", "total_variation", "skew_forward_kl", "skew_reverse_kl", "entropy_kl"]


def xlogy(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x > 0, x * torch.where(x > 0, y, 1.0).log(), 0.0)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (xlogy(p, p) - xlogy(p, q)).sum()


def entropy_kl(p: Tensor, q: Tensor) -> Tensor:
    doubt = 1 - torch.exp(xlogy(p, p).sum())
    return doubt * kl(p, q) + (1 - doubt) * kl(q, p)


REFERENCE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "jensen_shannon": lambda p, q: BETA * kl(p, BETA * p + (1 - BETA) * q) + (1 - BETA) * kl(q, BETA * p + (1 - BETA) * q),
    "total_variation": lambda p, q: 0.5 * (p - q).abs().sum(),
    "skew_forward_kl": lambda p, q: kl(p, BETA * p + (1 - BETA) * q),
    "skew_reverse_kl": lambda p, q: kl(q, (1 - BETA) * p + BETA * q),
    "entropy_kl": entropy_kl,
}


class Case:
    """A head, hidden states and targets, with masses from flat to very peaked."""

    def __init__(self, seed: int, rows: int, slots: int, vocab: int, top_k: int, sharpness: float) -> None:
        rng = np.random.default_rng(seed)
        self.hidden = torch.tensor(rng.normal(size=(rows, 8)) * sharpness, dtype=torch.float32)
        self.weight = torch.tensor(rng.normal(size=(vocab, 8)), dtype=torch.float32)
        self.bias = torch.tensor(rng.normal(size=vocab), dtype=torch.float32)
        row = rng.integers(rows, size=slots)
        gold = np.where(rng.random(slots) < 0.3, -1, rng.integers(vocab, size=slots))
        count = np.where(rng.random(slots) < 0.2, 0, rng.integers(1, top_k + 1, size=slots))
        ids, logprobs, tail = np.zeros((slots, top_k), np.int64), np.zeros((slots, top_k), np.float32), np.zeros(slots)
        for i in range(slots):
            logits = rng.normal(size=vocab) * rng.choice([0.1, 1, 5])
            dense = logits - np.log(np.exp(logits).sum())
            best = np.argsort(-dense)[: count[i]]
            ids[i], logprobs[i, : count[i]] = best[0] if count[i] else 0, dense[best].astype(np.float16)
            ids[i, : count[i]] = best
            tail[i] = 1 - np.exp(dense[best]).sum()
        arrays = (row, gold, count, ids, logprobs, np.maximum(tail, 10 * MIN_TEACHER_TAIL).astype(np.float32))
        self.targets = Targets(*(torch.from_numpy(array) for array in arrays))

    def reference(self, name: str, objective: Objective) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradients in float64, position by position, from dense softmaxes."""
        hidden, weight, bias = (x.double().requires_grad_() for x in (self.hidden, self.weight, self.bias))
        total = 0.0 * (hidden.sum() + weight.sum() + bias.sum())
        t = self.targets
        for i in range(len(t.row_M)):
            log_q = torch.log_softmax(hidden[t.row_M[i]] @ weight.T + bias, dim=0)
            if t.gold_M[i] >= 0:
                total = total - objective.mle_scale * log_q[t.gold_M[i]]
            k = int(t.count_M[i])
            if k:
                ids, tail = t.ids_MK[i, :k], t.tail_M[i].double()
                p = t.logprobs_MK[i, :k].double().exp()
                p = torch.cat([p / p.sum() * (1 - tail), tail[None]])
                outside = torch.ones(len(log_q), dtype=torch.bool).index_fill(0, ids, False)
                q = torch.cat([log_q[ids].exp(), log_q[outside].exp().sum()[None]])
                total = total + objective.kd_scale * REFERENCE[name](p, q)
        total.backward()
        return total.detach(), [x.grad for x in (hidden, weight, bias) if x.grad is not None]


CASES = st.builds(
    Case,
    seed=st.integers(0, 2**31),
    rows=st.just(4),
    slots=st.integers(1, 12),
    vocab=st.integers(10, 40),
    top_k=st.integers(1, 9),
    sharpness=st.sampled_from([0.0, 0.3, 2.0]),
)


@pytest.mark.parametrize("name", NAMES)
@given(
    seed=st.integers(0, 2**31),
    slots=st.integers(1, 12),
    vocab=st.integers(10, 40),
    top_k=st.integers(1, 9),
    sharpness=st.sampled_from([0.0, 0.3, 2.0, 8.0]),
)
# A student whose tail is below 1e-30.
@example(seed=1, slots=10, vocab=10, top_k=9, sharpness=8.0)
@settings(max_examples=40, deadline=None)
def test_value_and_gradient_are_the_dense_ones(
    name: str, seed: int, slots: int, vocab: int, top_k: int, sharpness: float
) -> None:
    case = Case(seed, 5, slots, vocab, top_k, sharpness)
    objective = Objective(0.7, 1.3, divergence(name, BETA))
    inputs = [x.clone().requires_grad_() for x in (case.hidden, case.weight, case.bias)]
    result = head_loss(*inputs, case.targets, objective)
    (2.0 * result.loss).backward()
    value, grads = case.reference(name, objective)
    assert result.loss.item() == pytest.approx(value.item(), rel=2e-5, abs=2e-6 * (1 + sharpness))
    for mine, theirs in zip((x.grad for x in inputs), grads, strict=True):
        assert mine is not None
        assert torch.isfinite(mine).all()
        # Logits grow with sharpness, and so does what float32 rounds off them.
        assert (mine.double() - 2.0 * theirs).norm() <= 1e-4 * theirs.norm() + 2e-5 * (1 + sharpness)
    with torch.no_grad():
        assert head_loss(*inputs, case.targets, objective).loss.item() == pytest.approx(result.loss.item(), rel=1e-6)


def one_slot(logits: Tensor, teacher: Tensor, top_k: int, name: str) -> tuple[float, Tensor]:
    """The divergence at one position of which student logits and the teacher's distribution are given."""
    best = teacher.argsort(descending=True)[:top_k]
    targets = Targets(
        torch.zeros(1, dtype=torch.int64),
        torch.full((1,), -1),
        torch.tensor([top_k]),
        best[None],
        teacher[best].log()[None].float(),
        (1 - teacher[best].sum()).clamp_min(0)[None].float(),
    )
    hidden = torch.eye(1).requires_grad_()
    weight = logits.float()[:, None].requires_grad_()
    loss = head_loss(hidden, weight, None, targets, Objective(0.0, 1.0, divergence(name, BETA))).loss
    loss.backward()
    assert weight.grad is not None
    return loss.item(), weight.grad[:, 0]


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**31), top_k=st.integers(1, 19), spread=st.sampled_from([0.1, 1.0, 6.0, 20.0]))
@settings(max_examples=40, deadline=None)
def test_zero_exactly_where_the_masses_agree(name: str, seed: int, top_k: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(size=20) * spread)
    teacher = logits.softmax(0)
    value, grad = one_slot(logits, teacher, top_k, name)
    assert 0 <= value < 3e-6
    assert name == "total_variation" or grad.abs().max() < 1e-5
    other = torch.tensor(rng.normal(size=20) * spread)
    masses_differ = (other.softmax(0) - teacher)[teacher.argsort(descending=True)[:top_k]].abs().max()
    value, _ = one_slot(other, teacher, top_k, name)
    assert value >= 0
    assert value > 0 or masses_differ < 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_leaking_mass_out_of_the_top_k_is_punished(name: str) -> None:
    """Truncated or renormalised losses cannot see this: the ids inside keep their proportions."""
    teacher = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.05])
    values = [one_slot(torch.tensor([0.5, 0.3, leak, leak, leak]).log(), teacher, 2, name)[0] for leak in (0.2 / 3, 0.2, 1.0)]
    assert values[0] < 1e-4
    assert values[0] < values[1] < values[2]


# Outside the stored ids a teacher's doubt is not seen, so that the mixture of entropy_kl is another one there.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "entropy_kl"])
def test_lower_bound_of_the_full_divergence(name: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        logits, teacher = torch.tensor(rng.normal(size=20) * 2), torch.tensor(rng.normal(size=20) * 2).softmax(0)
        assert one_slot(logits, teacher, 4, name)[0] <= REFERENCE[name](teacher, logits.softmax(0)).item() + 1e-6


def test_forward_kl_gradient_on_stored_ids_is_the_full_one() -> None:
    rng = np.random.default_rng(2)
    logits, teacher = torch.tensor(rng.normal(size=20)), torch.tensor(rng.normal(size=20)).softmax(0)
    _, grad = one_slot(logits, teacher, 5, "forward_kl")
    stored = teacher.argsort(descending=True)[:5]
    assert torch.allclose(grad[stored].double(), (logits.softmax(0) - teacher)[stored], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_extremes_stay_finite(name: str) -> None:
    """A student that is certain of a token the teacher excludes, and a stored log-probability of -inf."""
    targets = Targets(
        torch.zeros(3, dtype=torch.int64),
        torch.tensor([5, -1, 5]),
        torch.tensor([1, 2, 2]),
        torch.tensor([[0, 0], [0, 1], [0, 1]]),
        torch.tensor([[0.0, 0.0], [0.0, -math.inf], [-1e-3, -8.0]]),
        torch.tensor([0.0, 0.0, 1.0]),
    )
    weight = torch.tensor([-200.0, 0.0, 300.0, 0.0, 0.0, -300.0])[:, None].requires_grad_()
    loss = head_loss(torch.ones(1, 1), weight, None, targets, Objective(1.0, 1.0, divergence(name, BETA))).loss
    loss.backward()
    assert math.isfinite(loss.item())
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()


def test_chunks_do_not_change_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(3, 50, 200, 40, 6, 1.0)
    objective = Objective(0.7, 1.3, divergence("reverse_kl"))
    assert chunk_slots(200, 40, torch.float32, torch.device("cpu")) >= 200
    whole = head_loss(case.hidden.requires_grad_(), case.weight, case.bias, case.targets, objective)
    whole.loss.backward()
    expected = case.hidden.grad
    case.hidden.grad = None
    monkeypatch.setattr("train.loss.head.chunk_slots", lambda *_: 7)
    chunked = head_loss(case.hidden, case.weight, case.bias, case.targets, objective)
    chunked.loss.backward()
    assert chunked.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert expected is not None
    assert case.hidden.grad is not None
    assert torch.allclose(case.hidden.grad, expected, atol=1e-5)


def test_larger_chunks_in_half_precision_round_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU they are cut into slices for the losses; the products of all slots are rounded once a chunk."""
    cpu = torch.device("cpu")
    assert chunk_slots(0, 151_936, torch.bfloat16, cpu) == 4 * chunk_slots(0, 151_936, torch.float32, cpu) == 512
    assert slice_slots(512, 151_936, cpu) * 151_936 * 4 <= 16 << 20
    assert slice_slots(512, 300, cpu) == 512
    case = Case(4, 60, 400, 300, 6, 1.0)
    objective = Objective(0.7, 1.3, divergence("reverse_kl"))
    exact = case.reference("reverse_kl", objective)[1][1]
    losses, errors = [], []
    for chunk, part in ((64, 64), (256, 7), (256, 64), (400, 400)):
        monkeypatch.setattr("train.loss.head.chunk_slots", lambda *_, c=chunk: c)
        monkeypatch.setattr("train.loss.head.slice_slots", lambda *_, p=part: p)
        inputs = [x.clone().requires_grad_() for x in (case.hidden, case.weight, case.bias)]
        with torch.autocast("cpu", torch.bfloat16):
            result = head_loss(*inputs, case.targets, objective)
        result.loss.backward()
        losses.append(result.loss.item())
        weight = inputs[1].grad
        assert weight is not None
        errors.append(float((weight - exact).norm() / exact.norm()))
    assert losses[1:] == pytest.approx(losses[:1] * 3, rel=1e-5)
    assert max(errors[1:]) <= 1.05 * errors[0]
