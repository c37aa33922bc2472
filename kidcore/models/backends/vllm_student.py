"""The weights of a student in, before each step that it trains; its answers, by a vLLM engine in the same process, out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kidcore.errors import KidpipeError, first_line
from kidcore.models.backends import vllm_engine
from kidcore.models.backends.vllm import VllmBackend


class VllmStudent(VllmBackend):
    """A student in a vLLM engine beside the one that trains.

    On the CPU it draws as TransformersBackend.around does, so that both give the same answers.
    """

    _in_process = True

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the weights, under the names and in the shapes of a checkpoint.

        LM heads that are tied to the embeddings have to be among them: on the CPU the engine keeps a packed copy of their own.
        """
        llm = self._begin(None)
        assert self._engine is not None
        try:
            with vllm_engine.graph_compiler_off(self._engine.on_cpu):
                llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        except Exception as error:  # whatever vLLM raises, the engine is of no use any more
            raise KidpipeError(
                f"vLLM does not take the weights of this student: {first_line(error)}",
                where="train.rollout_backend = vllm",
                fix="set train.rollout_backend = transformers",
            ) from error

    def _drawn(self, temperature: float, seed: int) -> dict[str, Any]:
        drawn = super()._drawn(temperature, seed)
        if "extra_args" in drawn:
            from kidcore.models.backends.vllm_noise import INVERTED

            drawn["extra_args"][INVERTED] = True
        return drawn
