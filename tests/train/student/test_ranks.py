"""One process alone is all processes: nothing is sent, and what is summed stays as it is."""

import pytest
import torch
from torch import nn

from kidcore.errors import KidpipeError
from train.student.ranks import ALONE, Ranks, open_ranks


def test_alone_there_is_nobody_to_wait_for() -> None:
    values = torch.tensor([1.0, 2.0])
    assert ALONE.sum(values) is values
    assert ALONE.gather({"a": 1}) == [{"a": 1}]
    with ALONE.first_goes_ahead():
        ALONE.wait()
    assert ALONE.is_first
    assert not Ranks(1, 2).is_first


def test_alone_gradients_are_left_as_they_are() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.grad = torch.ones(2, 2)
    ALONE.sum_gradients(layer.parameters())
    assert layer.weight.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert layer.bias.grad is None, "a gradient that nobody has is not made up"


def test_without_torchrun_one_process_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with open_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.world_size, ranks.device.type) == (0, 1, "cpu")


def test_a_process_without_a_gpu_of_its_own_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(KidpipeError, match="process 3 of this machine has no GPU: there are 2") as caught, open_ranks("cuda"):
        pass
    assert "--nproc-per-node 2" in caught.value.fix
