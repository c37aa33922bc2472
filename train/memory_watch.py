"""What a step was expected to take in; a word to whoever runs it, once, where the steps leave hardly any memory free, out."""

import logging
from contextlib import suppress
from pathlib import Path

import torch

from train.memory import free_bytes, gigabytes

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_LEAST_LEFT = 0.05
"""Of what a step takes at most: with less than that free, a longer pack or another program may end the run."""
_LOG = logging.getLogger(__name__)


class MemoryWatch:
    """Looks at the largest memory of a run's steps, which is known when they are over."""

    def __init__(self, expected: int, device: torch.device) -> None:
        """`expected` bytes of a step, 0 where that is not known. What the process took before does not count."""
        self._expected, self._device, self._is_said = expected, device, False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with suppress(OSError):
                _FORGET.write_text("5", encoding="utf-8")

    def look(self, step: int) -> None:
        """After a step: warn where little was left at its largest."""
        if self._is_said:
            return
        now, most = self._taken()
        left = free_bytes(self._device) + now - most
        if left >= _LEAST_LEFT * most:
            return
        self._is_said = True
        expected = f" ({gigabytes(self._expected)} were expected)" if self._expected else ""
        _LOG.warning(
            "by step %d the run took up to %s%s and left %s free: should it be killed, the same command with a smaller "
            "train.pack_tokens or with train.gradient_checkpointing = true continues it",
            *(step, gigabytes(most), expected, gigabytes(max(0, left))),
        )

    def _taken(self) -> tuple[int, int]:
        """Bytes that this process holds now, and has held at most."""
        if self._device.type == "cuda":
            return torch.cuda.memory_reserved(self._device), torch.cuda.max_memory_reserved(self._device)
        fields = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="utf-8").splitlines())
        now, most = (int(fields[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))
        return now, most
