"""Samples of answers: they follow the tempered distribution, and each answer has random numbers of its own."""

import numpy as np
import pytest
import torch

from kidcore.models.backends.gumbel import Draw, Noise

LOGITS = torch.tensor([2.0, -torch.inf, 0.5, 1.0, -30.0])
NO_IDS = torch.zeros(0, dtype=torch.long)


@pytest.mark.parametrize("sampler", [Draw, Noise])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_samples_follow_the_tempered_distribution(sampler: type[Draw] | type[Noise], temperature: float) -> None:
    draws = 4000
    processor = sampler(range(draws), temperature)
    for expected in ((LOGITS / temperature).softmax(-1).numpy(),) * 2:
        tokens = processor(NO_IDS, LOGITS.expand(draws, -1)).argmax(-1).numpy()
        shares = np.bincount(tokens, minlength=5) / draws
        assert np.all(np.abs(shares - expected) < 5 * np.sqrt(expected * (1 - expected) / draws) + 1e-9)


@pytest.mark.parametrize("sampler", [Draw, Noise])
def test_an_answer_does_not_depend_on_its_neighbours(sampler: type[Draw] | type[Noise]) -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    together, alone = sampler(range(6), 1.0), [sampler([seed], 1.0) for seed in range(6)]
    steps = []
    for _ in range(5):
        tokens = together(NO_IDS, logits).argmax(-1).tolist()
        assert tokens == [one(NO_IDS, logits[row : row + 1]).argmax().item() for row, one in enumerate(alone)]
        steps.append(tokens)
    assert len({tuple(tokens) for tokens in steps}) > 1


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    first, last = torch.tensor([[-torch.inf, 0.0]]), torch.tensor([[0.0, -torch.inf]])
    for seed in range(200):
        assert Draw([seed], 1.0)(NO_IDS, first).argmax() == 1
        assert Draw([seed], 1.0)(NO_IDS, last).argmax() == 0
