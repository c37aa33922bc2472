"""Prompts and a model in, answers out, a token at a time: what prompts share is read once, and finished answers leave.

Prompts go through the model as a prefix tree; their keys and values then lie in one row of a cache each, and the place of
an answer that is finished goes to the next prompt. For models that can share prompts (kidcore.models.backends.packed).

Shapes: B answers under way, V vocabulary, G key-value heads, C tokens that a row of the cache has room for, E size of a head.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from kidcore.advance import Advance, unheard
from kidcore.models.backends.packed import plan_packs
from kidcore.models.trees.attention import RowPlan, has_tree_attention, make_mask
from kidcore.models.trees.layout import tolerance
from kidcore.models.trees.tree import Int32, Int64, build_tree
from kidcore.models.trees.trunk import run_trunk

_LEAST_FREE = 8
"""One part in so many of the places has to be free before new prompts take them."""
_GROWS_BY = 64
"""Tokens that a row of the cache has room for beyond those it holds; more room means to copy all rows."""
_CACHE_SHARE = 2
"""Tokens of prompts and answers in the cache, in multiples of those of a forward pass."""

_LOG = logging.getLogger(__name__)

Draw = Callable[[Sequence[int], Sequence[int], Tensor], Tensor]
"""(numbers of prompts, how many tokens each answer has, logits [B, V]) -> logits whose largest is the next token."""


@dataclass
class _Answer:
    """An answer under way."""

    number: int
    """Of its prompt."""
    length: int
    """Tokens in the cache."""
    limit: int
    token: int
    """The newest one, which is not in the cache yet."""
    tokens: list[int] = field(default_factory=list)


class _TreeCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """Keeps the keys and values of a tree's rows, by layer, as [G, L, E]."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called once in each layer."""
        self.kept[layer_idx] = keys[0], values[0]
        return keys, values


class _RowCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """Keys and values of answers under way, [places, G, C, E] a layer; the first B places are taken."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.places = self.room = 0
        self._row_B = self._column_B = torch.empty(0, dtype=torch.int64)
        self._taken = 0

    def reserve(self, places: int, room: int, like: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Have as many places with as much room; what the taken ones hold stays."""
        for number, (keys, values) in like.items():
            dtype = _kept_dtype(keys, values)
            new = keys.new_zeros(2, places, keys.shape[0], room, keys.shape[2], dtype=dtype)
            if number in self._layers:
                for old, fresh in zip(self._layers[number], new, strict=True):
                    rows, columns = min(self.places, places), min(self.room, room)
                    fresh[:rows, :, :columns] = old[:rows, :, :columns]
            self._layers[number] = new[0], new[1]
        self.places, self.room = places, room

    def layers_now(self) -> dict[int, tuple[Tensor, Tensor]]:
        """One row a layer, as `reserve` wants it."""
        return {number: (keys[0], values[0]) for number, (keys, values) in self._layers.items()}

    def put(self, place: int, path: Tensor, tree: _TreeCache) -> None:
        """Copy the rows `path` of a tree to a place."""
        for number, pair in tree.kept.items():
            for mine, tree_GLE in zip(self._layers[number], pair, strict=True):
                mine[place, :, : len(path)] = tree_GLE[:, path]

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copy whole places onto others."""
        for pair in self._layers.values():
            for mine in pair:
                mine[targets] = mine[sources]

    def expect(self, lengths_B: Tensor) -> None:
        """The next token of each row goes to this column."""
        self._row_B, self._column_B = torch.arange(len(lengths_B), device=lengths_B.device), lengths_B
        self._taken = int(lengths_B.max()) + 1

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called once in each layer with [B, G, 1, E]; all that the rows hold is given back, the new token included."""
        whole = []
        for mine, new in zip(self._layers[layer_idx], (keys, values), strict=True):
            mine[self._row_B, :, self._column_B] = new[:, :, 0].to(mine.dtype)
            whole.append(mine[: len(self._row_B), :, : self._taken])
        return whole[0], whole[1]


def _kept_dtype(keys: Tensor, values: Tensor) -> torch.dtype:
    """Under autocast rotary embeddings leave float32 keys beside values of half precision; attention takes one dtype."""
    if keys.dtype != values.dtype and keys.device.type != "cpu":
        return torch.get_autocast_dtype(keys.device.type)
    return torch.promote_types(keys.dtype, values.dtype)


@torch.no_grad()
def can_decode(model: Any) -> bool:
    """Whether a token behind a cache of ours gives the hidden states that it gives behind its text; by trying it."""
    if not has_tree_attention(model):
        return False
    device = model.get_output_embeddings().weight.device
    ids_L = torch.arange(1, 8, device=device) % model.get_output_embeddings().weight.shape[0]
    positions_L, size = torch.arange(7, device=device), 6
    tree, rows = _TreeCache(), _RowCache()
    try:
        whole_D = run_trunk(model, ids_L[None], positions_L[None], None)[-1]
        mask = make_mask(model, np.full(size, size, np.int64), device)
        run_trunk(model, ids_L[None, :size], positions_L[None, :size], mask, tree)
        rows.reserve(1, 8, tree.kept)
        rows.put(0, positions_L[:size], tree)
        rows.expect(positions_L[size:])
        seen = RowPlan(torch.ones(1, 1, 1, size + 1, dtype=torch.bool, device=device))
        step_D = run_trunk(model, ids_L[None, size:], positions_L[None, size:], seen, rows)[0]
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        _LOG.debug("decoding with a cache of ours failed: %s", error)
        return False
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else whole_D.dtype
    return bool((step_D - whole_D).float().norm() <= tolerance(dtype) * whole_D.float().norm())


def decode(
    model: Any,
    prompts: Sequence[Int32],
    limits: Sequence[int],
    stop_ids: Sequence[int],
    batch_tokens: int,
    draw: Draw | None = None,
    advance: Advance = unheard,
) -> Iterator[tuple[int, list[int]]]:
    """The number of each prompt and its answer without the stop token, in the order they are finished in.

    Args:
        model: one that `packed.can_share` has given tree attention.
        prompts: token ids, at least one each.
        limits: the most tokens of each answer, 1 or more.
        stop_ids: tokens that end an answer.
        batch_tokens: of prompts in one forward pass.
        draw: samples instead of taking the likeliest token.
        advance: told at each step of answers that are finished, and of those whose prompts are read.
    """
    decoder = _Decoder(model, prompts, limits, set(stop_ids), batch_tokens, draw)
    while decoder.is_busy:
        # No generator runs in inference mode: it would leave its caller in it between two answers.
        finished = decoder.advance()
        advance(len(finished), decoder.num_under_way)
        yield from finished


class _Decoder:
    def __init__(
        self,
        model: Any,
        prompts: Sequence[Int32],
        limits: Sequence[int],
        stops: set[int],
        batch_tokens: int,
        draw: Draw | None,
    ) -> None:
        self._model, self._prompts, self._limits, self._stops, self._draw = model, prompts, limits, stops, draw
        self._batch_tokens = batch_tokens
        self._head = model.get_output_embeddings()
        self._device = self._head.weight.device
        self._cache = _RowCache()
        self._active: list[_Answer] = []
        self._done: list[tuple[int, list[int]]] = []
        self._packs = deque(plan_packs(prompts, batch_tokens))
        self._tree, self._waiting = _TreeCache(), deque[tuple[_Answer, Tensor]]()

    @property
    def is_busy(self) -> bool:
        """Whether answers are missing."""
        return bool(self._active or self._waiting or self._packs)

    @property
    def num_under_way(self) -> int:
        """Answers whose prompts are read."""
        return len(self._active) + len(self._waiting)

    @torch.inference_mode()
    def advance(self) -> list[tuple[int, list[int]]]:
        """Read prompts where there is room for their answers, then one more token of each answer; those now finished."""
        self._done = []
        if not self._waiting and self._packs and self._has_place(0):
            self._read(self._packs.popleft())
        if self._waiting and self._has_place(self._waiting[0][0].length):
            self._admit()
        if self._active:
            self._step()
        return self._done

    def _has_place(self, length: int) -> bool:
        """Whether enough places are free that some should be filled."""
        taken = len(self._active)
        if not taken:
            return True
        most = self._most_places(max(length, self._longest()))
        return taken <= most - max(1, most // _LEAST_FREE)

    def _most_places(self, length: int) -> int:
        return max(1, _CACHE_SHARE * self._batch_tokens // (length + 1))

    def _longest(self) -> int:
        return max((answer.length for answer in self._active), default=0)

    def _read(self, pack: list[int]) -> None:
        """Put prompts through the model; those whose answers do not end at once wait, each with its rows of the tree."""
        tree, cache = build_tree([self._prompts[number] for number in pack]), _TreeCache()
        hidden_LD = self._run(tree.input_ids, tree.position_ids, make_mask(self._model, tree.tout, self._device), cache)
        last_B = torch.tensor([int(path[-1]) for path in tree.paths], device=self._device)
        answers = [_Answer(number, len(self._prompts[number]), self._limits[number], -1) for number in pack]
        self._choose(answers, self._head(hidden_LD[last_B]))
        paths = [torch.from_numpy(path).to(self._device) for path in tree.paths]
        self._tree = cache
        self._waiting.extend(pair for pair in zip(answers, paths, strict=True) if not self._finished(pair[0]))

    def _run(self, ids: Int64, positions: Int64, mask: Any, cache: Cache) -> Tensor:
        ids_1L, positions_1L = (torch.from_numpy(x).to(self._device)[None] for x in (ids, positions))
        return run_trunk(self._model, ids_1L, positions_1L, mask, cache)

    def _admit(self) -> None:
        """Give answers places, as many as there is room for."""
        longest, number = self._longest(), 0
        for answer, _ in self._waiting:
            longer = max(longest, answer.length)
            if (taken := len(self._active) + number) and taken >= self._most_places(longer):
                break
            longest, number = longer, number + 1
        if len(self._active) + number > self._cache.places or longest >= self._cache.room:
            self._cache.reserve(len(self._active) + number, longest + _GROWS_BY, self._tree.kept)
        for _ in range(number):
            answer, path = self._waiting.popleft()
            self._cache.put(len(self._active), path, self._tree)
            self._active.append(answer)

    def _step(self) -> None:
        """One more token of each answer."""
        if self._longest() >= self._cache.room:
            self._cache.reserve(len(self._active), self._longest() + _GROWS_BY, self._cache.layers_now())
        lengths_B = torch.tensor([answer.length for answer in self._active], device=self._device)
        ids_B1 = torch.tensor([[answer.token] for answer in self._active], device=self._device)
        self._cache.expect(lengths_B)
        column_L = torch.arange(int(lengths_B.max()) + 1, device=self._device)
        plan = RowPlan((column_L[None, :] <= lengths_B[:, None])[:, None, None])
        hidden_BD = run_trunk(self._model, ids_B1, lengths_B[:, None], plan, self._cache)
        for answer in self._active:
            answer.length += 1
        self._choose(self._active, self._head(hidden_BD))
        self._drop_finished()

    def _choose(self, answers: Sequence[_Answer], logits_BV: Tensor) -> None:
        if self._draw is not None:
            numbers, counts = [x.number for x in answers], [len(x.tokens) for x in answers]
            logits_BV = self._draw(numbers, counts, logits_BV.float())
        for answer, token in zip(answers, logits_BV.argmax(-1).tolist(), strict=True):
            answer.token = token
            if token not in self._stops:
                answer.tokens.append(token)

    def _finished(self, answer: _Answer) -> bool:
        """Whether it is; if so, it is noted."""
        if answer.token in self._stops or len(answer.tokens) == answer.limit:
            self._done.append((answer.number, answer.tokens))
            return True
        return False

    def _drop_finished(self) -> None:
        """Fill the places of finished answers with the last ones."""
        over = [self._finished(answer) for answer in self._active]
        left = len(over) - sum(over)
        targets = [place for place in range(left) if over[place]]
        sources = [place for place in range(left, len(over)) if not over[place]]
        if targets:
            self._cache.move(sources, targets)
        for source, target in zip(sources, targets, strict=True):
            self._active[target] = self._active[source]
        del self._active[left:]
