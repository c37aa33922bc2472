"""What a step was expected to take in; how much of it a run keeps from step to step, and a word where hardly any is left, out."""

import logging
from contextlib import suppress
from pathlib import Path

import torch

from kidcore.allocator import release_free_memory
from train.memory import free_bytes, gigabytes

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_LEAST_LEFT = 0.05
"""Of what a step takes at most: with less than that free, a longer pack or another program may end the run."""
_STEADY, _GROWTH = 10, 1.05
"""From this step on a run holds at most so many times what it held until then."""
_LOG = logging.getLogger(__name__)


class MemoryWatch:
    """Looks at the largest memory of a run's steps, which is known when they are over, and gives back what they need not keep.

    Pages that a step freed are kept for the next one on a CPU: to find ten gigabytes anew each step is a fifth of its time. They
    are given back where the run holds more than a step was expected to take, or than its first steps did, or leaves little. What
    the step behind that takes by itself is kept from then on: longer packs than the first ones had are no reason to give back
    all pages at each step.
    """

    def __init__(self, expected: int, device: torch.device) -> None:
        """`expected` bytes of a step, 0 where that is not known. What the process took before does not count."""
        self._expected, self._device, self._is_said = expected, device, False
        self._most_kept, self._steps, self._largest = expected if device.type == "cpu" else 0, 0, 0
        self._is_anew = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with suppress(OSError):
                _FORGET.write_text("5", encoding="utf-8")

    def look(self, step: int) -> None:
        """After a step: give back what is not kept, and warn where little was left at its largest."""
        now, most = self._taken()
        free = free_bytes(self._device)
        self._give_back(now, free)
        left = free + now - most
        if self._is_said or left >= _LEAST_LEFT * most:
            return
        self._is_said = True
        expected = f" ({gigabytes(self._expected)} were expected)" if self._expected else ""
        _LOG.warning(
            "by step %d the run took up to %s%s and left %s free: should it be killed, the same command with a smaller "
            "train.pack_tokens or with train.gradient_checkpointing = true continues it",
            *(step, gigabytes(most), expected, gigabytes(max(0, left))),
        )

    def _give_back(self, now: int, free: int) -> None:
        self._steps, self._largest = self._steps + 1, max(self._largest, now)
        if self._is_anew and self._device.type == "cpu":
            self._most_kept = max(self._most_kept, int(_GROWTH * now))
        self._is_anew = now > self._most_kept or free < 2 * _LEAST_LEFT * now
        if self._is_anew:
            release_free_memory()
        if self._steps == _STEADY:
            self._most_kept = min(self._most_kept, int(_GROWTH * self._largest))

    def _taken(self) -> tuple[int, int]:
        """Bytes that this process holds now, and has held at most."""
        if self._device.type == "cuda":
            return torch.cuda.memory_reserved(self._device), torch.cuda.max_memory_reserved(self._device)
        fields = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="utf-8").splitlines())
        now, most = (int(fields[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))
        return now, most
