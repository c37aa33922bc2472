"""FlexAttention over trees: the block mask against torch's own, values and gradients against dense attention.

torch has no CPU kernel for the backward pass, so on a CPU the function is traced as it is on a GPU and run with
torch's reference operators, which evaluate the mask for every pair and do not look at the lists of blocks.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from kidcore.models.trees import flex, layout
from kidcore.models.trees.attention import ancestor_mask, install, make_mask, uninstall
from kidcore.models.trees.trunk import run_trunk
from tests.kidcore.models.trees.drawing import CUDA, draw_schema_tree, draw_tree, flex_on
from tests.train.small import make_student

# The compiler looks at .grad of inputs that are no leaves, and means to hide the warning.
pytestmark = [
    pytest.mark.slow(seconds=3),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
PER_TEST = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    yield from flex_on(request.param, monkeypatch)


def same_list(found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """Whether two (count, order) pairs name the same blocks, in the same order."""
    counts = [x[0].tolist() for x in (found, expected)]
    named = [[row[:n].tolist() for row, n in zip(x[1][0, 0], x[0][0, 0], strict=True)] for x in (found, expected)]
    return counts[0] == counts[1] and named[0] == named[1]


@given(
    seed=st.integers(0, 2**31),
    databases=st.integers(1, 4),
    questions=st.integers(1, 12),
    schema=st.sampled_from([2, 100, 500]),
    question=st.sampled_from([2, 30, 300]),
)
@settings(max_examples=40, deadline=None)
def test_blocks_are_those_that_torch_finds_by_looking_at_all_pairs(
    seed: int, databases: int, questions: int, schema: int, question: int
) -> None:
    plan = flex.make_flex_plan(draw_schema_tree(seed, databases, questions, schema, question).tout, torch.device("cpu"))
    length, tout = plan.num_rows, plan.tout_L
    assert length % flex.BLOCK == 0
    expected = create_block_mask(lambda _b, _h, q, k: (k <= q) & (q < tout[k]), 1, 1, length, length, device="cpu")
    part_kv, whole_kv, part_q, whole_q = (plan.blocks[i : i + 2] for i in (0, 2, 4, 6))
    assert same_list(part_kv, (expected.kv_num_blocks, expected.kv_indices))
    assert same_list(whole_kv, (expected.full_kv_num_blocks, expected.full_kv_indices))
    assert same_list(part_q, (expected.q_num_blocks, expected.q_indices))
    assert same_list(whole_q, (expected.full_q_num_blocks, expected.full_q_indices))


def dense_difference(
    plan: flex.FlexPlan, heads: tuple[int, int], size: int, dtype: torch.dtype, device: torch.device, seed: int
) -> float:
    """Largest relative distance of output and gradients from dense attention in float64."""
    torch.manual_seed(seed)
    inputs = [torch.randn(1, plan.num_rows, n, size).transpose(1, 2) for n in (heads[0], heads[1], heads[1])]
    mine = [x.to(device, dtype).requires_grad_() for x in inputs]
    exact = [x.detach().double().cpu().requires_grad_() for x in mine]
    mask = ancestor_mask(plan.tout_L.cpu().long())
    grouped = [x.repeat_interleave(heads[0] // heads[1], dim=1) for x in exact[1:]]
    expected = torch.nn.functional.scaled_dot_product_attention(exact[0], *grouped, attn_mask=mask, scale=0.3)
    found = flex.attend_flex(*mine, plan, 0.3)
    grad = torch.randn(found.shape)
    pairs = [(found, expected)]
    pairs += zip(
        torch.autograd.grad(found, mine, grad.to(found)), torch.autograd.grad(expected, exact, grad.double()), strict=True
    )
    # Rows that see only themselves give queries and keys no gradient, hence the 1.
    return max(float((x.detach().double().cpu() - y.detach()).norm() / max(y.detach().norm(), 1.0)) for x, y in pairs)


@given(seed=st.integers(0, 2**31), sequences=st.integers(1, 12), alphabet=st.integers(1, 5), longest=st.integers(2, 90))
@settings(max_examples=8, **PER_TEST)
@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (14, 2)])
def test_output_and_gradients_are_the_dense_ones(
    device: torch.device, heads: tuple[int, int], seed: int, sequences: int, alphabet: int, longest: int
) -> None:
    plan = flex.make_flex_plan(draw_tree(seed, sequences, alphabet, longest).tout, device)
    assert dense_difference(plan, heads, 16, torch.float32, device, seed) < 2e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
def test_whole_blocks_and_precisions(device: torch.device, dtype: torch.dtype, tolerance: float) -> None:
    """Schemas longer than a block, so that some blocks are seen whole."""
    plan = flex.make_flex_plan(draw_schema_tree(1, 2, 8, 600, 90).tout, device)
    assert int(plan.blocks[2].sum()) > 0
    assert dense_difference(plan, (4, 2), 64, dtype, device, 0) < tolerance
    assert flex.relative_error(4, 2, 64, dtype, device, backward=True) < tolerance


def test_new_lengths_do_not_compile_again(device: torch.device) -> None:
    rng = np.random.default_rng(0)
    before, lengths = torch._dynamo.utils.counters["stats"]["unique_graphs"], set()
    for number in range(50):
        tree = draw_schema_tree(number, int(rng.integers(1, 4)), int(rng.integers(1, 10)), 300, 60)
        plan = flex.make_flex_plan(tree.tout, device)
        lengths.add(plan.num_rows)
        inputs = [torch.randn(1, plan.num_rows, n, 16, device=device).transpose(1, 2).requires_grad_() for n in (2, 1, 1)]
        with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
            flex.attend_flex(*inputs, plan, 0.25).sum().backward()
    assert len(lengths) > 8
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 1


@pytest.mark.slow
def test_many_models_share_a_process(device: torch.device) -> None:
    """Students and teachers of other shapes and precisions, with gradients and without: more kinds than torch's own limit."""
    plan = flex.make_flex_plan(draw_schema_tree(1, 2, 4, 200, 30).tout, device)
    for heads, groups in ((1, 1), (2, 1), (4, 2)):
        for dtype, tolerance in ((torch.float32, 2e-5), (torch.bfloat16, 2e-2)):
            assert dense_difference(plan, (heads, groups), 16, dtype, device, 0) < tolerance
            with torch.no_grad():
                flex.attend_flex(
                    *(torch.randn(1, n, plan.num_rows, 16, device=device, dtype=dtype) for n in (heads, groups, groups)),
                    plan,
                    0.25,
                )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_gives_what_dense_masks_give(device: torch.device, checkpointing: bool) -> None:
    model = make_student(heads=2).to(device).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    tree = draw_schema_tree(5, 2, 6, 150, 20)
    ids, positions = (torch.from_numpy(x).to(device)[None] for x in (tree.input_ids, tree.position_ids))
    results = []
    for switch in (uninstall, install):
        switch(model)
        # On a CPU, trees would go through blocks instead.
        mask = make_mask(model, tree.tout, device) if switch is uninstall else flex.make_flex_plan(tree.tout, device)
        hidden = run_trunk(model, ids, positions, mask)
        weights = torch.sin(torch.arange(hidden.numel(), device=device)).view_as(hidden)
        parameters = [p for name, p in model.named_parameters() if "lm_head" not in name]
        results.append([hidden.detach(), *torch.autograd.grad((hidden * weights).sum(), parameters)])
    for dense, flexible in zip(*results, strict=True):
        assert (dense - flexible).norm() <= 2e-5 * dense.norm() + 1e-6


def test_where_it_does_not_run_the_reason_is_given() -> None:
    """torch refuses the backward pass on a CPU, as the compiler refuses heads that are too small on a GPU."""
    model = make_student(heads=2).train()
    assert layout._try_flex(model, torch.device("cpu"), None).startswith("FlexAttention does not compile here (")
