"""Token ids in, log-probabilities out, by vLLM: the engine for real work.

A prompt's shared prefix is computed once. vLLM skips its prefix cache for requests that want prompt log-probabilities;
they are let read it here, and only the rows after the cached part are used. Before a sequence is scored its prompt is
sent as a request of its own that wants no log-probabilities: the scored request then finds it in the cache, and the
output layer runs over the SQL instead of the whole prompt. Only the rows of the SQL leave its front end (vllm_rows). A trial at
the start checks that all this holds.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from kidcore.advance import Advance, unheard
from kidcore.config.config import EngineSettings
from kidcore.errors import KidpipeError
from kidcore.models.backends import vllm_engine, vllm_rows
from kidcore.models.backends.base import (
    EngineDied,
    Sampling,
    ScoreRequest,
    TopK,
    before_stop,
    check_prompts,
    check_score,
    in_ranked_order,
)
from kidcore.models.backends.facts import EngineFacts
from kidcore.models.backends.quiet import quiet
from kidcore.models.sources import ModelSource
from kidcore.models.trees.tree import shared_length

_LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")

_TIE_MARGIN = 8
"""Tokens asked for beyond K, so that ties for the last place can go to the lower id (of those that many alike)."""
_HELD_BACK = 1024
"""Requests that may be under way or wait for an earlier one to be answered."""
_IN_FLIGHT_STEPS = 4
"""Steps' worth of scored tokens handed to the engine ahead of time."""


@dataclass
class _Call(Generic[Answer]):
    """One call of score or generate: how its requests are submitted and answers read."""

    count: int
    submit: Callable[[int], int]
    """Hands request `index` to the engine and returns its tokens."""
    receive: Callable[[int, Any], Answer | None]
    """Reads the engine's output; None when the request had to be submitted again."""
    tokens_in_flight: int
    live: set[str] = field(default_factory=set)


def open_engine(
    source: ModelSource, engine: EngineSettings, dtype: str, *, max_top_k: int, max_length: int, verbose: bool
) -> "VllmBackend":
    """As `kidcore.models.backends.base.Opener`."""
    return VllmBackend(
        source.path,
        engine,
        dtype=dtype,
        max_top_k=max_top_k,
        max_length=max_length,
        vocab_size=source.vocab_size,
        verbose=verbose,
    )


class VllmBackend:
    """A causal language model in a vLLM engine."""

    name = "vllm"
    _in_process = False
    """Whether the engine stays in this process on GPUs too."""

    def __init__(
        self,
        model_path: str | Path,
        settings: EngineSettings,
        *,
        dtype: str,
        max_top_k: int,
        max_length: int,
        vocab_size: int,
        verbose: bool = False,
    ) -> None:
        """Load the model. `dtype` is explicit, `max_top_k` the largest K and `max_length` the longest sequence to come."""
        self.vocab_size, self.max_length, self.max_top_k = vocab_size, max_length, min(max_top_k, vocab_size)
        self.cached_tokens = 0
        """Prompt tokens of scored requests that the prefix cache served so far."""
        self._verbose = verbose
        self._model_path = Path(model_path)
        self._call: _Call[Any] | None = None
        self._engine: vllm_engine.Engine | None = vllm_engine.start(
            self._model_path,
            settings,
            dtype,
            max_logprobs=min(self.max_top_k + _TIE_MARGIN, vocab_size),
            max_length=max_length,
            vocab_size=vocab_size,
            verbose=verbose,
            in_process=self._in_process,
        )
        self.facts = EngineFacts("vllm", *vllm_engine.version_and_device(self._engine), dtype)
        self._reads_cache = self._cuts_rows = False
        self._try_out(1e-3 if dtype == "float32" else 0.5, wants_cache=settings.prefix_cache)

    def score(self, requests: Sequence[ScoreRequest], top_k: int, advance: Advance = unheard) -> Iterator[TopK]:
        """One TopK a request, in order. Neighbours that share a prefix should stand together."""
        check_score(self, requests, top_k)
        if top_k > self.max_top_k:
            raise KidpipeError(
                f"K = {top_k} is more than the {self.max_top_k} this engine was started for",
                fix="open the engine with the largest K that will be asked",
            )
        return self._run(self._scoring(requests, top_k), advance)

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
        stops = set(stop_ids)
        repeats = sampling.number if sampling else 1

        def submit(index: int) -> int:
            prompt = [int(token) for token in prompts[index // repeats]]
            tokens = min(max_new_tokens, self.max_length - len(prompt))
            drawn = self._drawn(sampling.temperature, sampling.seed_of(prompt, index % repeats)) if sampling else {}
            self._add(str(index), prompt, _sampling(max_tokens=tokens, stop_token_ids=sorted(stops), **drawn))
            return len(prompt) + tokens

        def receive(_: int, output: Any) -> list[int]:
            return before_stop(output.outputs[0].token_ids, stops)

        longest = max(map(len, prompts), default=0) + max_new_tokens
        return self._run(_Call(len(prompts) * repeats, submit, receive, self._room(longest)), advance)

    def _scoring(self, requests: Sequence[ScoreRequest], top_k: int) -> "_Call[TopK]":
        assert self._engine is not None
        scoring = _Scoring(self, requests, top_k)
        longest = max((len(request.token_ids) for request in requests), default=0)
        in_flight = min(max(self._engine.step_tokens * _IN_FLIGHT_STEPS, longest), self._room(longest))
        return _Call(len(requests), scoring.submit, scoring.receive, in_flight)

    def _room(self, longest: int) -> int:
        """Tokens under way below which one more request of at most `longest` still fits into the cache: what does not fit is
        preempted and computed again.
        """
        assert self._engine is not None
        capacity = self._engine.capacity_tokens or self._engine.step_tokens * _IN_FLIGHT_STEPS
        return max(1, capacity - min(longest, self.max_length) - self._engine.block_size)

    def _drawn(self, temperature: float, seed: int) -> dict[str, Any]:
        """What makes a request sample with random numbers of its own."""
        assert self._engine is not None
        if not self._engine.on_cpu:
            return {"temperature": temperature, "seed": seed}
        from kidcore.models.backends import vllm_noise

        return {"extra_args": {vllm_noise.SEED: seed, vllm_noise.TEMPERATURE: temperature}}

    def close(self) -> None:
        """Free the engine's memory. Closing twice is harmless."""
        if self._engine is not None:
            if not self._engine.watch.is_dead:
                self._begin(None)
            vllm_engine.stop(self._engine, self._verbose)
            self._engine = None

    def _begin(self, call: "_Call[Any] | None") -> Any:
        """Drop what an abandoned call left behind and forget its prefixes: answers depend on the call alone."""
        assert self._engine is not None, "the engine is closed"
        llm = self._engine.llm
        with vllm_engine.telling_of_death(self._engine, self._model_path):
            if self._call is not None and self._call.live:
                llm.abort_request(sorted(self._call.live))
                self._call.live.clear()
            self._call = call
            llm.reset_prefix_cache()
        return llm

    def _add(self, request_id: str, token_ids: list[int], params: Any, salt: str = "") -> None:
        from vllm.inputs.engine import tokens_input

        assert self._engine is not None
        assert self._call is not None
        self._call.live.add(request_id)
        self._engine.llm.add_request(request_id, tokens_input(token_ids, cache_salt=salt or None), params)

    def _run(self, call: _Call[Answer], advance: Advance = unheard) -> Iterator[Answer]:
        """Keep the engine supplied within the call's bounds; yield the answers in order."""
        llm = self._begin(call)
        assert self._engine is not None
        engine = self._engine
        answers: dict[int, Answer] = {}
        tokens: dict[int, int] = {}
        submitted = yielded = in_flight = 0
        told = (0, 0)
        while yielded < call.count:
            assert self._call is call, "another call of this engine began before this one had ended"
            with vllm_engine.telling_of_death(engine, self._model_path), vllm_engine.graph_compiler_off(engine.on_cpu):
                while submitted < min(call.count, yielded + _HELD_BACK) and (not tokens or in_flight < call.tokens_in_flight):
                    tokens[submitted] = call.submit(submitted)
                    in_flight += tokens[submitted]
                    submitted += 1
                outputs = [output for output in llm.step() if output.finished]
            for output in outputs:
                call.live.discard(output.request_id)
                if output.request_id.startswith("prefix"):
                    continue
                index = int(output.request_id)
                answer = call.receive(index, output)
                if answer is not None:
                    answers[index] = answer
                    in_flight -= tokens.pop(index)
            if told != (news := (submitted - len(tokens), len(tokens))):
                advance(news[0] - told[0], news[1])
                told = news
            while yielded in answers:
                yield answers.pop(yielded)
                yielded += 1

    def _try_out(self, tolerance: float, *, wants_cache: bool) -> None:
        """Score a few sequences the plain way, then with each short cut: those that give the same numbers are taken.

        Some models load and fail at the first step, and the first steps warn of what loading did not: both belong here.
        """
        assert self._engine is not None
        block = self._engine.block_size
        length = min(3 * block + 5, self.max_length)
        shared = min(2 * block + block // 2, length - 1)
        ids = np.random.default_rng(0).integers(0, self.vocab_size, size=(3, length), dtype=np.int32)
        ids[:, :shared] = ids[0, :shared]
        requests = [ScoreRequest(row, max(1, shared)) for row in ids]
        plain = self._try_score(requests)
        problem = vllm_rows.install(self.facts.version)
        if not problem:
            self._cuts_rows = True
            problem = _difference(plain, self._try_score(requests), tolerance)
        if problem:
            self._cuts_rows = False
            _LOG.warning("scoring through vLLM's own lists of log-probabilities, which is slower: %s", problem)
        if not wants_cache:
            return
        self._reads_cache = True
        problem = _difference(plain, self._try_score(requests), tolerance)
        if self.cached_tokens == 0:
            problem = f"it serves nothing (sequences of {length} tokens, blocks of {block})"
        self.cached_tokens = 0
        if problem:
            self._reads_cache = False
            _LOG.warning("scoring without vLLM's prefix cache, which is slower: %s", problem)

    def _try_score(self, requests: Sequence[ScoreRequest]) -> list[TopK]:
        with quiet(self._verbose):
            try:
                return list(self._run(self._scoring(requests, min(5, self.max_top_k))))
            except EngineDied:
                self.close()
                raise
            except Exception as error:
                self.close()
                raise vllm_engine.refusal(error, self._model_path) from error


class _Scoring:
    """Submits the requests of one score call and reads their answers."""

    def __init__(self, backend: VllmBackend, requests: Sequence[ScoreRequest], top_k: int) -> None:
        self._backend, self._requests, self._top_k = backend, requests, top_k
        self._reads_cache, self._cuts_rows = backend._reads_cache, backend._cuts_rows
        self._entries = min(top_k + _TIE_MARGIN, backend.vocab_size)
        self._retried: set[int] = set()
        assert backend._engine is not None
        self._block = backend._engine.block_size

    def submit(self, index: int) -> int:
        """Hand in the sequence, and before it its prompt, unless the request before had the same one."""
        request = self._requests[index]
        known = shared_length(request.token_ids, self._requests[index - 1].token_ids) if index else 0
        known = known // self._block * self._block
        self._add(index, known, salt=f"{index}" if known >= request.start else "")
        return len(request.token_ids)

    def receive(self, index: int, output: Any) -> TopK | None:
        """The rows wanted are the last ones, whether or not the engine returns rows for the cached part."""
        request = self._requests[index]
        cached = int(output.num_cached_tokens or 0)
        count = len(request.token_ids) - int(request.start)
        rows = vllm_rows.last_rows(output.prompt_logprobs, count, self._entries + 1)
        # The row of position p comes from position p - 1, which must have been computed in this very request.
        complete = cached < request.start and len(rows) == count
        if not complete or not (rows.ids[:, 0] == request.token_ids[request.start :]).all():
            assert index not in self._retried, "vLLM returned rows of other tokens than those it was given"
            self._retried.add(index)
            self._add(index, 0, salt=f"{index}")
            return None
        self._backend.cached_tokens += cached
        best = in_ranked_order(rows.ids[:, 1:], rows.logprobs[:, 1:], self._top_k)
        return TopK(*best, actual_logprob=rows.logprobs[:, 0].copy())

    def _add(self, index: int, known: int, salt: str) -> None:
        """`known` tokens are in the cache already. A salt keeps it from serving what other requests left there: where one
        has the same tokens up to a position that is wanted here, that position would not be computed.
        """
        request = self._requests[index]
        prefix = (int(request.start) - 1) // self._block * self._block
        if self._reads_cache and prefix > (0 if salt else known):
            self._backend._add(f"prefix {index}", request.token_ids[:prefix].tolist(), _sampling(max_tokens=1), salt)
        wanted = vllm_rows.asking_for(len(request.token_ids) - int(request.start)) if self._cuts_rows else {}
        params = _sampling(
            max_tokens=1,
            prompt_logprobs=self._entries,
            flat_logprobs=True,
            skip_reading_prefix_cache=not self._reads_cache,
            **wanted,
        )
        self._backend._add(str(index), request.token_ids.tolist(), params, salt)


def _sampling(**settings: Any) -> Any:
    """Greedy unless told otherwise, only the finished output, no text; stop tokens are ours alone."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    fixed = {"detokenize": False, "ignore_eos": True, "output_kind": RequestOutputKind.FINAL_ONLY}
    return SamplingParams(**{"temperature": 0, **fixed, **settings})


def _difference(ours: Sequence[TopK], theirs: Sequence[TopK], tolerance: float) -> str:
    """What is wrong where log-probabilities differ by more than `tolerance`; else empty."""
    gap = max(float(np.abs(one.logprobs - other.logprobs).max()) for one, other in zip(ours, theirs, strict=True))
    return "" if gap <= tolerance else f"log-probabilities differ by {gap:.2g} with and without"
