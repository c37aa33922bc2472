"""Token ids in, log-probabilities out, by vLLM servers that run somewhere else.

A sequence is scored in one of two ways that give the same numbers, chosen by a trial at the start. Whole: the server scores the
prompt and sends every position, megabytes of which the last rows are read. By position: a small request for each wanted one,
which the server's prefix cache makes cheap, and whose answer is what is read.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from kidcore.advance import Advance, unheard
from kidcore.config.config import EngineSettings
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Sampling, ScoreRequest, TopK, check_prompts, check_score, in_ranked_order
from kidcore.models.backends.facts import EngineFacts
from kidcore.models.backends.served_client import Ask, Refused, Servers
from kidcore.models.backends.served_scores import are_same, fixed_scores
from kidcore.models.backends.served_wire import (
    UNREADABLE,
    Row,
    continuation,
    position,
    read_continuation,
    read_position,
    read_whole_prompt,
    whole_prompt,
)
from kidcore.models.sources import ModelSource

_LOG = logging.getLogger(__name__)
_TIE_MARGIN = 8
"""Tokens asked for beyond K, so that ties for the last place can go to the lower id."""
_TRIAL_LENGTH, _TRIAL_ROWS, _TRIAL_SEQUENCES = 512, 24, 3
_TOLERANCE = 0.03
"""Largest mean difference between the two ways; they compute in batches of different shapes."""
Way = Literal["whole", "by position"]
Answer = TypeVar("Answer")


class ServedBackend:
    """One model behind one URL or several."""

    name = "served"

    def __init__(self, source: ModelSource, settings: EngineSettings, max_length: int) -> None:
        """`source` as `resolve_served` found it. Tries both ways to score."""
        assert source.served is not None
        self._served = source.served
        self.vocab_size, self.max_length = source.vocab_size, min(max_length, source.max_length)
        urls = self._served.urls
        self._most = settings.server_requests * len(urls)
        self._servers = Servers(urls, settings.server_timeout_s, settings.server_patience_s, self._check)
        self._threads = ThreadPoolExecutor(self._most, "server")
        self.facts = EngineFacts("vllm", self._served.version, "a server", "its own precision")
        self._way: Way = "whole"
        try:
            self._way = self._faster_way()
        except BaseException:
            self.close()
            raise

    def score(self, requests: Sequence[ScoreRequest], top_k: int, advance: Advance = unheard) -> Iterator[TopK]:
        """One TopK a request, in order."""
        check_score(self, requests, top_k)
        if top_k > self._served.max_top_k:
            raise KidpipeError(f"K = {top_k} is more than the server gives", fix=f"start it with --max-logprobs {top_k + 8}")
        return self._in_order(len(requests), lambda index: self._score(requests[index], top_k, self._way), advance)

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
        stops, repeats = set(stop_ids), sampling.number if sampling else 1

        def one(index: int) -> list[int]:
            prompt = prompts[index // repeats]
            tokens = min(max_new_tokens, self.max_length - len(prompt))
            body = continuation(self._served.model, prompt, tokens, sorted(stops), sampling, index % repeats)
            return read_continuation(self._servers.ask(body), stops)

        return self._in_order(len(prompts) * repeats, one, advance)

    def close(self) -> None:
        """Stop asking. Closing twice is harmless."""
        self._servers.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _in_order(self, count: int, answer: Callable[[int], Answer], advance: Advance = unheard) -> Iterator[Answer]:
        """The answers to questions 0 to `count`, of which a bounded number is under way or waits for an earlier one."""
        waiting: deque[Future[Answer]] = deque()
        asked = told = 0
        try:
            while asked < count or waiting:
                while asked < count and len(waiting) < 2 * self._most:
                    waiting.append(self._threads.submit(answer, asked))
                    asked += 1
                while under_way := [future for future in waiting if not future.done()]:
                    finished = asked - len(under_way)
                    advance(finished - told, min(len(under_way), self._most))
                    told = finished
                    if waiting[0].done():
                        break
                    wait(under_way, return_when=FIRST_COMPLETED)
                yield self._told(waiting.popleft())
            advance(asked - told)
        finally:
            for future in waiting:
                future.cancel()

    def _told(self, future: "Future[Answer]") -> Answer:
        try:
            return future.result()
        except Refused as refused:
            raise KidpipeError(
                f"the server refuses a request ({refused.status}): {refused.message}",
                where=refused.url,
                fix="start it with the limits and the tokenizer that this build was configured for",
            ) from refused
        except UNREADABLE as error:
            raise KidpipeError(
                f"the server's answer cannot be read: {error}", where=self._where, fix="use a newer vLLM (0.10.2 or later)"
            ) from error

    def _score(self, request: ScoreRequest, top_k: int, way: Way) -> TopK:
        ids, start, model = request.token_ids.tolist(), int(request.start), self._served.model
        entries = min(top_k + _TIE_MARGIN, self._served.max_top_k, self.vocab_size)
        if way == "whole":
            rows = read_whole_prompt(self._servers.ask(whole_prompt(model, ids, entries)), ids, start)
            return _ranked(rows, top_k)
        # One after the other at one server: each finds all but its last tokens in the cache that the one before has filled.
        url = self._servers.least_busy()
        rows = [
            read_position(self._servers.ask(position(model, ids, place, entries), rather=url), ids[place])
            for place in range(start, len(ids))
        ]
        return _ranked(rows, top_k)

    def _try_score(self, requests: Sequence[ScoreRequest], top_k: int, way: Way, index: int) -> TopK:
        return self._score(requests[index], top_k, way)

    def _faster_way(self) -> Way:
        """Score a few sequences both ways. By position goes first: it finds nothing in the cache."""
        length = min(_TRIAL_LENGTH, self.max_length)
        start = max(1, length - _TRIAL_ROWS)
        drawn = np.random.default_rng(1).integers(0, self.vocab_size, size=(_TRIAL_SEQUENCES, length), dtype=np.int32)
        requests, top_k = [ScoreRequest(row, start) for row in drawn], min(5, self._served.max_top_k)
        seconds: dict[Way, float] = {}
        found: dict[Way, list[TopK]] = {}
        ways: tuple[Way, Way] = ("by position", "whole")
        for way in ways:
            began = time.perf_counter()
            try:
                found[way] = list(self._in_order(len(requests), partial(self._try_score, requests, top_k, way)))
            except KidpipeError as error:
                if way == "whole":
                    raise
                _LOG.info("scoring whole prompts: %s", error.what)
                continue
            seconds[way] = time.perf_counter() - began
        if "by position" in found:
            pairs = list(zip(*found.values(), strict=True))
            gap = float(np.mean([np.abs(one.actual_logprob - other.actual_logprob).mean() for one, other in pairs]))
            if gap > _TOLERANCE:
                _LOG.warning("scoring whole prompts, which may be slower: by position log-probabilities differ by %.2g", gap)
                del seconds["by position"]
        way = min(seconds, key=seconds.__getitem__)
        _LOG.info("scoring %s: %s", way, ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))
        return way

    def _check(self, url: str, ask: Ask) -> None:
        """A server that was away may have come back with another model."""
        model, tokens = self._served.model, self._served.tokens
        try:
            found = fixed_scores(ask, model, tokens, self._served.max_length)
        except (Refused, *UNREADABLE) as error:
            raise KidpipeError(f"the server came back as another one: {error}", where=url, fix="start the same model") from error
        if not are_same(self._served.scores, found):
            raise KidpipeError(
                "the server came back with another model: its scores of the same sequences differ",
                where=url,
                fix="start the model that this build began with and run the same command; finished shards are kept",
            )

    @property
    def _where(self) -> str:
        return ", ".join(self._served.urls)


def _ranked(rows: Sequence[Row], top_k: int) -> TopK:
    """Rows differ by one in length: the token that stands there comes beside the likeliest, or is one of them."""
    width = min(len(ids) for ids, _, _ in rows)
    parts = [in_ranked_order(ids[None], logprobs[None], width) for ids, logprobs, _ in rows]
    ids, logprobs = (np.concatenate(part)[:, :top_k] for part in zip(*parts, strict=True))
    return TopK(ids, logprobs, np.array([actual for _, _, actual in rows], dtype=np.float32))
