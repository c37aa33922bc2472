"""A student's configuration and the run's settings in; what a step takes at most, what is free, and settings that fit, out.

D hidden size, I width of the MLP, HE and GE width of all query and of all key heads, V vocabulary. All sizes in bytes.
"""

import gc
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kidcore.allocator import release_free_memory
from kidcore.config import processes
from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.method.methods import METHODS
from kidcore.models.weights import count_weights
from train.loss.head import chunk_slots, slice_slots
from train.step import autocast_dtype
from train.student.ranks import Ranks

_RUNTIME = 600_000_000
"""Libraries, the loader's examples and the like, in a process on a CPU; on a GPU, CUDA's context."""
_CHUNKS_ON_GPU = 512 << 20
_SHARE = 0.9
"""Of what is free that a step may be planned to take. By judgement: few peaks were held against the estimate."""
_KEPT_FREE, _KEPT_FREE_BESIDE_IMPERFECT = 1.4, 1.7
"""Of what a step moves through on a CPU it takes so many times what is counted here: 1.0 to 1.5 in runs on gold alone, 1.3 to 2.1
on trees with imperfect SQL, of up to 100 steps (bench/RESULTS.md). What is freed within a step is kept for it, see
kidcore.allocator; that is a part of it."""
_SMALLEST_PACK, _USUAL_PACK, _LARGEST_PACK = 512, 4096, 16384
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudentShape:
    """What decides the memory of a step."""

    num_weights: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    query_width: int
    key_width: int
    vocab_size: int
    is_bfloat16: bool = False
    """Whether the weights are stored so."""

    @classmethod
    def of(cls, student: Path) -> "StudentShape | None":
        """Of a model folder; None where its configuration has other names for these sizes."""
        config: dict[str, Any] = json.loads((student / "config.json").read_text(encoding="utf-8"))
        config |= config.get("text_config") or {}
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            size = int(config.get("head_dim") or hidden // heads)
            return cls(
                num_weights=count_weights(student),
                layers=int(config["num_hidden_layers"]),
                hidden=hidden,
                intermediate=int(config["intermediate_size"]),
                heads=heads,
                query_width=heads * size,
                key_width=int(config.get("num_key_value_heads") or heads) * size,
                vocab_size=int(config["vocab_size"]),
                is_bfloat16=(config.get("dtype") or config.get("torch_dtype")) == "bfloat16",
            )
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def linear_weights(self) -> int:
        """Numbers in the linear layers of the trunk."""
        attention = 2 * self.hidden * (self.query_width + self.key_width)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def adapter_weights(self) -> int:
        """Numbers that adapters of rank 1 on all linear layers hold."""
        attention = 2 * (self.hidden + self.query_width) + 2 * (self.hidden + self.key_width)
        return self.layers * (attention + 3 * (self.hidden + self.intermediate))


def step_bytes(shape: StudentShape, settings: TrainSettings, device: torch.device, longest: int = 0) -> int:
    """The most that a process with a whole student holds at a time, for packs of `pack_tokens` or of a `longest` example."""
    is_cast = autocast_dtype(settings, device) is not None
    trained = settings.lora_rank * shape.adapter_weights if settings.lora_rank else shape.num_weights
    stays_cast = _stays_cast(shape, settings, is_cast=is_cast)
    frozen = (2 if stays_cast else 4) * shape.num_weights if settings.lora_rank else 0
    # Weights, two moments of AdamW, and the gradients that the packs before have left.
    state = 16 * trained + frozen
    checkpointed = settings.gradient_checkpointing
    casts = 2 * shape.linear_weights // (shape.layers if checkpointed else 1) if is_cast and not stays_cast else 0
    row = _row_bytes(shape, settings.lora_rank, is_cast=is_cast)
    if is_cast and device.type == "cpu":
        # Attention is in float32 there, and its result is cast for the product behind it.
        row += 6 * shape.query_width + 4 * shape.key_width
    kept = 4 * shape.hidden * shape.layers + row if checkpointed else row * shape.layers
    moved = casts + max(pack_size(settings), longest) * kept + _head_bytes(shape, settings, device, is_cast=is_cast)
    kept_free = _KEPT_FREE_BESIDE_IMPERFECT if METHODS[settings.method].imperfect else _KEPT_FREE
    step = state + (moved if device.type == "cuda" else int(kept_free * moved))
    # The student is loaded in float32.
    return _RUNTIME + max(step, 4 * shape.num_weights)


def _stays_cast(shape: StudentShape, settings: TrainSettings, *, is_cast: bool) -> bool:
    """Whether frozen weights are kept in bfloat16 (see train.student.adapters)."""
    return is_cast and settings.lora_rank > 0 and shape.is_bfloat16


def _row_bytes(shape: StudentShape, lora_rank: int, *, is_cast: bool) -> int:
    """What one layer keeps of one row for its backward pass; counted by hooks on saved tensors under autocast."""
    hidden, wide, query, key = shape.hidden, shape.intermediate, shape.query_width, shape.key_width
    if not is_cast:
        # Two norms' residuals and results; queries, keys, values, the attention's result; gate, silu, up and product.
        return 16 * hidden + 8 * query + 8 * key + 4 * shape.heads + 16 * wide + 28 * lora_rank
    if lora_rank:
        return 18 * hidden + 6 * query + 4 * key + 4 * shape.heads + 8 * wide + 14 * lora_rank
    return 26 * hidden + 4 * query + 4 * key + 4 * shape.heads + 8 * wide


def _head_bytes(shape: StudentShape, settings: TrainSettings, device: torch.device, *, is_cast: bool) -> int:
    table, is_gpu = shape.vocab_size * shape.hidden, device.type == "cuda"
    size = chunk_slots(pack_size(settings), shape.vocab_size, torch.bfloat16 if is_cast else torch.float32, device)
    part = slice_slots(size, shape.vocab_size, device)
    # The logits of a chunk, and what the losses make of a part of them.
    chunks = _CHUNKS_ON_GPU if is_gpu else shape.vocab_size * ((2 if is_cast else 4) * size + 4 * part)
    # On a CPU the gradients of head and embedding are added in place (see train.student.tables).
    trained = 4 * table if is_gpu and not settings.lora_rank else 0
    return chunks + trained + (2 * table if is_cast and not _stays_cast(shape, settings, is_cast=is_cast) else 0)


def free_bytes(device: torch.device) -> int:
    """What this process may still take: of the GPU, or its share of the machine or of its control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    machine = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    return min([machine, *_group_room()]) // processes.local_world_size()


def _group_room(root: Path = Path("/")) -> Iterator[int]:
    """What each control group that this process is in leaves free."""
    for folder, is_second in processes.control_groups("memory", root):
        limit, usage = ("memory.max", "memory.current") if is_second else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        try:
            most, taken = (folder / limit).read_text().strip(), int((folder / usage).read_text())
            cache = [x.split()[1] for x in (folder / "memory.stat").read_text().splitlines() if x.startswith("inactive_file")]
        except (OSError, ValueError):
            continue
        if most != "max":
            # Pages of files that nobody uses are given back before anybody is killed.
            yield max(0, int(most) - taken + sum(map(int, cache)))


def expected_bytes(settings: TrainSettings, student: Path, ranks: Ranks, longest: int = 0) -> int:
    """What a step of `fitted` settings is expected to take; 0 where that is not known, or the student is divided."""
    shape = StudentShape.of(student)
    return 0 if shape is None or _may_be_divided(settings, ranks) else step_bytes(shape, settings, ranks.device, longest)


def _may_be_divided(settings: TrainSettings, ranks: Ranks) -> bool:
    return settings.parallel == "fsdp" or (settings.parallel == "auto" and ranks.world_size > 1)


def pack_size(settings: TrainSettings) -> int:
    """Tokens of a pack, of settings that are `fitted`."""
    assert settings.pack_tokens != "auto", "settings are fitted before a run"
    return settings.pack_tokens


def fitted(settings: TrainSettings, student: Path, ranks: Ranks, began_with: int = 0, longest: int = 0) -> TrainSettings:
    """The settings with a number of tokens a pack, and with smaller packs or with checkpointing where these would not fit.

    Losses stay but for their last digits. A run that goes on keeps the packs that it `began_with`; 0 where it is new, or told
    otherwise. No pack is smaller than the `longest` sequence of the data, whatever its budget. Processes that each have the
    whole student cut the same packs of the same examples: the one with the least memory decides for all.

    Raises:
        KidpipeError: nothing that may be changed makes a step fit.
    """
    shape = StudentShape.of(student)
    if settings.pack_tokens == "auto" or began_with:
        size = began_with or _largest_pack(shape, settings, ranks, longest)
        settings = settings.model_copy(update={"pack_tokens": size})
    if shape is None or _may_be_divided(settings, ranks):
        return settings
    free = min(ranks.gather(_room(shape, settings, ranks.device, longest)))
    chosen = _choose(shape, settings, ranks.device, free, longest)
    asked, needed = (step_bytes(shape, x, ranks.device, longest) for x in (settings, chosen))
    if chosen is not settings:
        checkpointing = " and gradient checkpointing" if chosen.gradient_checkpointing > settings.gradient_checkpointing else ""
        _LOG.warning(
            "a step with train.pack_tokens = %d would take about %s, and %s are free: packs of %d tokens%s instead (about %s)",
            *(settings.pack_tokens, gigabytes(asked), gigabytes(free)),
            *(chosen.pack_tokens, checkpointing, gigabytes(needed)),
        )
    if needed > free:
        lora = "" if settings.lora_rank else " or set train.lora_rank = 16 (adapters need few moments);"
        raise KidpipeError(
            f"a training step would take about {gigabytes(needed)}, and {gigabytes(free)} are free",
            where=f"{student}, with packs of {max(pack_size(chosen), longest)} tokens and gradient checkpointing",
            fix=f"free memory, or use a smaller student or a larger GPU;{lora} or share it between GPUs (train.parallel = fsdp)",
        )
    _LOG.debug("a step is expected to take %s of %s", gigabytes(needed), gigabytes(free))
    return chosen


def _room(shape: StudentShape, settings: TrainSettings, device: torch.device, longest: int) -> int:
    """What is free, and where that is too little, what is free without what a run before in this process left behind."""
    free = free_bytes(device)
    if step_bytes(shape, settings, device, longest) <= _SHARE * free:
        return free
    # A trainer's objects refer to each other: its model, half the memory of a laptop, waits for the collector.
    gc.collect()
    release_free_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return free_bytes(device)


def _largest_pack(shape: StudentShape | None, settings: TrainSettings, ranks: Ranks, longest: int) -> int:
    """A GPU is used better by fewer and larger packs; several have to agree, and an online method's teacher needs room."""
    if shape is None or ranks.device.type != "cuda" or ranks.world_size > 1 or METHODS[settings.method].is_online:
        return _USUAL_PACK
    size, free = _LARGEST_PACK, free_bytes(ranks.device)
    while size > _USUAL_PACK:
        if step_bytes(shape, settings.model_copy(update={"pack_tokens": size}), ranks.device, longest) <= _SHARE * free:
            break
        size //= 2
    return size


def _choose(shape: StudentShape, settings: TrainSettings, device: torch.device, free: int, longest: int) -> TrainSettings:
    """The first that fits: smaller packs cost little, checkpointing a third of the trunk's time."""
    tried = settings
    for checkpointing in (False, True):
        if settings.gradient_checkpointing and not checkpointing:
            continue
        pack = pack_size(settings)
        while True:
            change = {"pack_tokens": pack, "gradient_checkpointing": checkpointing}
            is_same = (pack, checkpointing) == (settings.pack_tokens, settings.gradient_checkpointing)
            tried = settings if is_same else settings.model_copy(update=change)
            if step_bytes(shape, tried, device, longest) <= _SHARE * free:
                return tried
            if pack // 2 < max(_SMALLEST_PACK, longest // 2):
                break
            pack //= 2
    return tried


def gigabytes(size: int) -> str:
    """As people are told it."""
    return f"{size / 1e9:.1f} GB"
