"""Token ids in, log-probabilities out, by transformers: the reference engine and the fallback.

Shapes: B sequences of a batch, L tokens, n wanted positions of a sequence, N of a batch, V vocabulary, K likeliest.
"""

import functools
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessorList
from transformers.utils import logging as transformers_logging

from kidcore.advance import Advance, unheard
from kidcore.allocator import keep_few_products
from kidcore.config.config import EngineSettings
from kidcore.errors import KidpipeError, first_line
from kidcore.models.backends.base import Sampling, ScoreRequest, TopK, before_stop, check_prompts, check_score
from kidcore.models.backends.decoding import can_decode, decode
from kidcore.models.backends.facts import EngineFacts
from kidcore.models.backends.gumbel import Draw, Noise, Sampler
from kidcore.models.backends.packed import can_share, plan_packs, rank_logits, score_pack, split
from kidcore.models.sources import ModelSource

_WINDOW = 512
"""Prompts sorted by length together: less padding, and answers held back stay small."""
_SHARING_WINDOW = 2048
"""The same where prompts share what they begin with: more of them begin alike."""
_LOGITS_BYTES = 1 << 29
"""Bound on the float32 logits of one batch; the vocabulary of a small model weighs more than its layers."""


def open_engine(
    source: ModelSource, engine: EngineSettings, dtype: str, *, max_top_k: int, max_length: int, verbose: bool
) -> "TransformersBackend":
    """As `kidcore.models.backends.base.Opener`; any K can be asked."""
    del max_top_k
    return TransformersBackend(
        source.path,
        dtype=dtype,
        device=engine.device,
        batch_tokens=engine.batch_tokens,
        max_length=max_length,
        verbose=verbose,
    )


class TransformersBackend:
    """A causal language model in this process, on one device."""

    name = "transformers"
    _sampler: type[Sampler] = Noise

    def __init__(
        self, model_path: str | Path, *, dtype: str, device: str, batch_tokens: int, max_length: int, verbose: bool
    ) -> None:
        """Load the model; `max_length` tokens is the longest sequence it will be given."""
        keep_few_products()
        self._device = torch.device(_resolve_device(device))
        self._model = _load(str(model_path), dtype, verbose).to(self._device).eval()
        self._batch_tokens = batch_tokens
        self.vocab_size = int(self._model.get_output_embeddings().weight.shape[0])
        self.max_length = max_length
        self.facts = _facts(self._model, self._device)

    @classmethod
    def around(cls, model: Any, *, batch_tokens: int, max_length: int) -> "TransformersBackend":
        """A backend that runs `model` where it is and as it is at each call: the student of a run, while it trains."""
        backend = cls.__new__(cls)
        backend._device, backend._model, backend._batch_tokens = model.device, model, batch_tokens
        backend._sampler = Draw
        backend.facts = _facts(model, model.device)
        backend.vocab_size, backend.max_length = int(model.get_output_embeddings().weight.shape[0]), max_length
        return backend

    def score(self, requests: Sequence[ScoreRequest], top_k: int, advance: Advance = unheard) -> Iterator[TopK]:
        """One TopK a request, in order."""
        check_score(self, requests, top_k)
        return self._score(requests, top_k, advance)

    def _score(self, requests: Sequence[ScoreRequest], top_k: int, advance: Advance) -> Iterator[TopK]:
        for begin in range(0, len(requests), _SHARING_WINDOW):
            window = requests[begin : begin + _SHARING_WINDOW]
            answers: dict[int, TopK] = {}
            for batch in self._score_batches(window):
                asked = [window[index] for index in batch]
                found = score_pack(self._model, asked, top_k) if self._shares_prompts else self._score_batch(asked, top_k)
                answers.update(zip(batch, found, strict=True))
                advance(len(batch))
            yield from (answers[index] for index in range(len(window)))

    @functools.cached_property
    def _shares_prompts(self) -> bool:
        return can_share(self._model)

    @functools.cached_property
    def _decodes(self) -> bool:
        return self._shares_prompts and can_decode(self._model)

    def _score_batches(self, requests: Sequence[ScoreRequest]) -> Iterator[list[int]]:
        if self._shares_prompts:
            return plan_packs([request.token_ids for request in requests], self._batch_tokens)
        wanted = [len(request.token_ids) - request.start + 1 for request in requests]
        return self._batches([len(request.token_ids) for request in requests], wanted)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        sampling: Sampling | None = None,
        advance: Advance = unheard,
    ) -> Iterator[list[int]]:
        """Continuations, in order, without the stop token; shorter where `max_length` is reached."""
        check_prompts(self, prompts, max_new_tokens, sampling)
        if sampling is None:
            return self._generate(prompts, max_new_tokens, stop_ids, (), 0.0, advance)
        numbers = range(sampling.number)
        seeds = [sampling.seed_of(prompt, number) for prompt in prompts for number in numbers]
        repeated = [prompt for prompt in prompts for _ in numbers]
        return self._generate(repeated, max_new_tokens, stop_ids, seeds, sampling.temperature, advance)

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        seeds: Sequence[int],
        temperature: float,
        advance: Advance,
    ) -> Iterator[list[int]]:
        """Greedy without `seeds`, else one drawn answer a prompt and seed."""
        if self._decodes:
            yield from self._decode(prompts, max_new_tokens, stop_ids, seeds, temperature, advance)
            return
        for begin in range(0, len(prompts), _WINDOW):
            window = prompts[begin : begin + _WINDOW]
            answers: dict[int, list[int]] = {}
            for batch in self._batches([len(prompt) for prompt in window], [1] * len(window)):
                noise = self._sampler([seeds[begin + index] for index in batch], temperature) if seeds else None
                rows = self._generate_batch([window[index] for index in batch], max_new_tokens, stop_ids, noise)
                answers.update(zip(batch, rows, strict=True))
                advance(len(batch))
            yield from (answers[index] for index in range(len(window)))

    def _decode(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        seeds: Sequence[int],
        temperature: float,
        advance: Advance,
    ) -> Iterator[list[int]]:
        """The same, where prompts are shared and finished answers make room for others."""
        for begin in range(0, len(prompts), _SHARING_WINDOW):
            window = [np.asarray(prompt, dtype=np.int32) for prompt in prompts[begin : begin + _SHARING_WINDOW]]
            limits = [min(max_new_tokens, self.max_length - len(prompt)) for prompt in window]
            draw = self._sampler(seeds[begin : begin + _SHARING_WINDOW], temperature).at if seeds else None
            found: dict[int, list[int]] = {}
            ready = 0
            for number, answer in decode(self._model, window, limits, stop_ids, self._batch_tokens, draw, advance):
                found[number] = answer
                while ready in found:
                    yield found.pop(ready)
                    ready += 1

    def close(self) -> None:
        """Free the model's memory."""
        if hasattr(self, "_model"):
            del self._model
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _batches(self, lengths: list[int], wanted: list[int]) -> Iterator[list[int]]:
        """Indices of sequences of like length that fit the token budget and the memory for logits together."""
        batch: list[int] = []
        most_wanted = 0
        for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
            rows, most_wanted = len(batch) + 1, max(most_wanted, wanted[index])
            too_long = rows * lengths[index] > self._batch_tokens
            if batch and (too_long or rows * most_wanted * self.vocab_size * 4 > _LOGITS_BYTES):
                yield batch
                batch, most_wanted = [], wanted[index]
            batch.append(index)
        if batch:
            yield batch

    @torch.inference_mode()
    def _score_batch(self, requests: list[ScoreRequest], top_k: int) -> list[TopK]:
        """Sequences are padded on the left, so that the wanted positions of all stand at the end."""
        counts = [len(request.token_ids) - int(request.start) for request in requests]
        ids_BL, mask_BL = self._pad_left([request.token_ids for request in requests])
        positions_BL = (mask_BL.cumsum(-1) - 1).clamp(min=0)
        logits_BnV = self._model(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            position_ids=positions_BL,
            use_cache=False,
            logits_to_keep=max(counts) + 1,
        ).logits
        logits_NV = torch.cat([row_nV[-count - 1 : -1] for row_nV, count in zip(logits_BnV, counts, strict=True)])
        actual_N = torch.cat([row_L[-count:] for row_L, count in zip(ids_BL, counts, strict=True)])
        return split(rank_logits(logits_NV, actual_N, top_k), requests)

    @torch.inference_mode()
    def _generate_batch(
        self, prompts: list[Sequence[int]], max_new_tokens: int, stop_ids: Sequence[int], noise: Sampler | None
    ) -> list[list[int]]:
        ids_BL, mask_BL = self._pad_left([np.asarray(prompt, dtype=np.int32) for prompt in prompts])
        width = ids_BL.shape[1]
        settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=min(max_new_tokens, self.max_length - min(map(len, prompts))),
            eos_token_id=list(stop_ids) or None,
            pad_token_id=0,
        )
        with _own_defaults_only(self._model):
            output_BL = self._model.generate(
                input_ids=ids_BL,
                attention_mask=mask_BL,
                generation_config=settings,
                logits_processor=LogitsProcessorList([noise] if noise else []),
            )
        stops = set(stop_ids)
        rows: list[list[int]] = []
        for prompt, row in zip(prompts, output_BL[:, width:].tolist(), strict=True):
            rows.append(before_stop(row[: min(max_new_tokens, self.max_length - len(prompt))], stops))
        return rows

    def _pad_left(self, rows: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows))
        ids = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, width - len(row) :] = row
            mask[index, width - len(row) :] = 1
        return torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device)


def _facts(model: Any, device: torch.device) -> EngineFacts:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return EngineFacts("transformers", transformers.__version__, name, str(model.dtype).removeprefix("torch."))


def _resolve_device(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise KidpipeError("no CUDA device is available", where="engine.device", fix="set engine.device to auto or cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _load(model_path: str, dtype: str, verbose: bool) -> Any:
    """The model with its weights complete: transformers fills missing ones with random numbers and only prints it."""
    level, has_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    if not verbose:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            model_path, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # a model's constructor raises whatever its configuration leads it to
        raise KidpipeError(
            f"transformers cannot load the model: {first_line(error)}", where=model_path, fix="name a causal language model"
        ) from error
    finally:
        transformers_logging.set_verbosity(level)
        if has_bars:
            transformers_logging.enable_progress_bar()
    if missing := sorted(info["missing_keys"]):
        raise KidpipeError(
            f"the weights of {len(missing)} parameters are missing, {missing[0]} first",
            where=model_path,
            fix="the folder was saved incompletely or for another architecture: save it again",
        )
    return model


@contextmanager
def _own_defaults_only(model: Any) -> Iterator[None]:
    """Keep the folder's defaults (repetition penalty, sampling) out of decoding; they stay the model's."""
    before, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before
