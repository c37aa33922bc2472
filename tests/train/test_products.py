"""Linear layers whose gradients are added in place give what autograd gives, under autocast, in a few packs of one step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from train.loss import product
from train.loss.product import add_product
from train.student.products import casts_of_a_step, multiply_in_place


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(40, 96), (96, 40), (64, 64), (3000, 8)])
def test_a_product_is_added_to_what_is_there(shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "_NUMBERS", 1)
    monkeypatch.setattr(product, "_MANY_ROWS", 20)
    torch.manual_seed(0)
    for rows in (10, 30):
        grad, given = torch.randn(rows, shape[0]).to(dtype), torch.randn(rows, shape[1]).to(dtype)
        expected = grad.double().T @ given.double()
        new = add_product(None, grad, given)
        total = torch.ones(shape)
        assert add_product(total, grad, given) is total
        for found in (new, total - 1):
            assert found.dtype == torch.float32
            assert found.is_contiguous()
            assert float((found - expected).norm() / expected.norm()) < (4e-3 if dtype == torch.bfloat16 else 1e-6)


class _Block(nn.Module):
    """Two layers that are given the same, one behind them, and one weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(24, 48), nn.Linear(24, 48, bias=False), nn.Linear(48, 24)
        self.again = nn.Linear(24, 24, bias=False)
        self.last = nn.Linear(24, 24)
        self.last.weight = self.again.weight

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        result: Tensor = self.last(self.again(x + inner))
        return result


def _steps(model: nn.Module, keep: bool) -> list[Tensor]:
    """Outputs, and gradients of inputs and weights, of two packs each in two steps with a change of the weights between."""
    found: list[Tensor] = []
    for step in range(2):
        model.zero_grad(set_to_none=True)
        packs = [torch.randn(2, 5 + 3 * number, 24, generator=torch.Generator().manual_seed(step)) for number in range(2)]
        cached: Any = casts_of_a_step() if keep else torch.autocast("cpu", enabled=False)
        with torch.autocast("cpu", torch.bfloat16), cached:
            for pack in packs:
                with torch.autocast("cpu", torch.bfloat16):
                    output = model(pack.requires_grad_())
                output.float().square().sum().backward()
                assert pack.grad is not None
                found += [output.detach().float(), pack.grad]
        found += [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=0.01)
    return found


@pytest.mark.parametrize("keep", [True, False])
def test_layers_give_what_autograd_gives(keep: bool) -> None:
    torch.manual_seed(0)
    plain = _Block()
    mine = _Block()
    mine.load_state_dict(plain.state_dict())
    multiply_in_place(mine)
    assert type(mine.gate) is not nn.Linear
    expected, found = _steps(plain, keep), _steps(mine, keep)
    assert len(found) == len(expected)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert float((one - other).norm() / other.norm()) < 1e-2, number
    assert torch.equal(found[0], expected[0])


def test_evaluation_and_float32_are_left_to_torch() -> None:
    torch.manual_seed(0)
    plain, mine = nn.Linear(8, 8), nn.Linear(8, 8)
    mine.load_state_dict(plain.state_dict())
    model = nn.Sequential(mine)
    multiply_in_place(model)
    given = torch.randn(3, 8)
    for enabled, grads in ((True, False), (False, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), torch.set_grad_enabled(grads):
            assert torch.equal(model(given), plain(given))
    model(given).sum().backward()
    plain(given).sum().backward()
    assert mine.weight.grad is not None
    assert plain.weight.grad is not None
    assert torch.equal(mine.weight.grad, plain.weight.grad)


def test_frozen_layers_and_other_kinds_are_left_alone() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), Own(4, 4), nn.Linear(4, 4).to(torch.bfloat16))
    multiply_in_place(model)
    assert [type(layer) for layer in model] == [nn.Linear, Own, nn.Linear]
