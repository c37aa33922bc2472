"""A request's seed and temperature in, sampled tokens from vLLM's greedy search on the CPU out.

vLLM's own seeded sampling fails on the CPU where a prompt is computed in parts: it turns the request's generator back, and
CPU generators can't be.
"""

from functools import partial
from typing import Any

from torch import Tensor
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from kidcore.models.backends.gumbel import drawn, perturbed

SEED, TEMPERATURE, INVERTED = "kidpipe_seed", "kidpipe_temperature", "kidpipe_inverted"
"""Names in a request's `extra_args`; INVERTED stands for gumbel.Draw instead of gumbel.Noise."""


class SeededNoise(AdapterLogitsProcessor):  # type: ignore[misc]  # vLLM is not typed here
    """Perturbs the logits of requests that carry a seed, and of no others."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        extra = params.extra_args or {}
        how = _drawn if extra.get(INVERTED) else _perturbed
        return partial(how, extra[SEED], extra[TEMPERATURE]) if SEED in extra else None


def _perturbed(seed: int, temperature: float, output_ids: list[int], logits_V: Tensor) -> Tensor:
    return perturbed(seed, temperature, len(output_ids), logits_V)


def _drawn(seed: int, temperature: float, output_ids: list[int], logits_V: Tensor) -> Tensor:
    return drawn([seed], temperature, [len(output_ids)], logits_V[None])[0]
