"""How well a student knows gold, and what the teacher holds likely: sums over chunks against a loop over positions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.method.knowledge import GoldKnowledge
from kidcore.method.overlap import MOST_COMPARED, Overlap
from tests.train.test_losses import CASES, Case
from train.loss.knowledge import NUM_GOLD, knowledge_sums


def slow(case: Case, eos_id: int) -> list[float]:
    """Position by position, in float64."""
    sums, t = [0.0] * 10, case.targets
    for number in range(len(t.row_M)):
        logits = case.hidden[t.row_M[number]].double() @ case.weight.double().T + case.bias.double()
        log_q, gold, count = torch.log_softmax(logits, 0), int(t.gold_M[number]), int(t.count_M[number])
        if gold >= 0:
            place = 3 if gold == eos_id else 0
            sums[place] += 1
            sums[place + 1] -= float(log_q[gold])
            sums[2] += float(place == 0 and int(logits.argmax()) == gold)
        if count:
            stored = set(t.ids_MK[number, :count].tolist())
            best = torch.argsort(logits, descending=True).tolist()[: min(MOST_COMPARED, count)]
            sums[5] += 1
            sums[6] += best[0] in stored
            sums[7] += len(best)
            sums[8] += sum(token in stored for token in best)
            sums[9] += float(log_q[list(stored)].exp().sum())
    return sums


@settings(max_examples=40, deadline=None)
@given(case=CASES, eos_id=st.integers(0, 9))
def test_sums_are_those_of_a_loop(case: Case, eos_id: int) -> None:
    found = knowledge_sums(case.hidden, case.weight, case.bias, case.targets, eos_id).tolist()
    assert found == pytest.approx(slow(case, eos_id), rel=1e-4, abs=1e-4)


def test_chunks_do_not_change_them_and_nothing_asks_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(5, 4, 12, 30, 6, 0.3)
    hidden = case.hidden.clone().requires_grad_()
    whole = knowledge_sums(hidden, case.weight, case.bias, case.targets, 1)
    monkeypatch.setattr("train.loss.knowledge.chunk_slots", lambda *_: 5)
    parts = knowledge_sums(hidden, case.weight, case.bias, case.targets, 1)
    assert parts.tolist() == pytest.approx(whole.tolist(), rel=1e-6)
    assert not whole.requires_grad


def test_an_end_that_is_the_first_choice_is_no_token_that_is() -> None:
    case = Case(3, 4, 12, 30, 4, 0.3)
    case.bias[7] = 100.0
    case.targets.gold_M[:4] = 7
    tokens, _nll, first, ends, stop_nll = knowledge_sums(case.hidden, case.weight, case.bias, case.targets, 7).tolist()[:NUM_GOLD]
    assert tokens > 0
    assert (first, stop_nll) == (0, pytest.approx(0))
    assert ends >= 4


def test_without_gold_or_teacher_there_is_nothing_to_say() -> None:
    case = Case(1, 4, 6, 20, 3, 0.3)
    gold, count = torch.full_like(case.targets.gold_M, -1), torch.zeros_like(case.targets.count_M)
    case.targets = replace(case.targets, gold_M=gold, count_M=count)
    sums = knowledge_sums(case.hidden, case.weight, case.bias, case.targets, 1).tolist()
    assert sums == [0.0] * 10
    assert Overlap.of(sums[NUM_GOLD:]) is None
    assert np.isnan(GoldKnowledge.of(sums[:NUM_GOLD]).nll)


def test_under_autocast_they_are_those_of_the_precision_that_trains() -> None:
    case = Case(2, 4, 8, 30, 4, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = knowledge_sums(case.hidden, case.weight, case.bias, case.targets, 1)
    half = knowledge_sums(case.hidden.bfloat16(), case.weight.bfloat16(), case.bias.bfloat16(), case.targets, 1)
    assert found.tolist() == pytest.approx(half.tolist(), rel=1e-6)
    assert found.dtype == torch.float64
