"""Ways to do the same work in; what each took, in interleaved rounds, and their ratios with spread, out.

A ratio is taken within a round, where both sides met the same machine; its spread is over the rounds.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Cost:
    """What one turn took, warm-up left out."""

    examples: float
    wall_s: float
    cpu_s: float
    """CPU seconds of the process, all threads: what to compare on a busy machine."""
    peak_mib: float
    """Most memory of a step, see `PeakMemory`; nan = not measured."""
    tokens: float = 0
    """Tokens through the student's trunk, padding included; 0 = not counted."""
    first_loss: float = float("nan")

    def seconds(self, clock: Clock) -> float:
        """Seconds an example."""
        return (self.wall_s if clock == "wall" else self.cpu_s) / self.examples


Turn = Callable[[bool], Cost]
"""Takes whether to measure memory, which on the CPU makes a warm-up step slow."""
Costs = Mapping[str, Sequence[Cost]]


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Median, least and greatest of `values`."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def interleave(turns: Mapping[str, Turn], *, rounds: int, budget_s: float, warm: Sequence[str] = ()) -> dict[str, list[Cost]]:
    """Take every turn once a round, each round beginning one turn later, until the rounds or the seconds are used up.

    The first round is always finished. A turn that runs out of the device's memory is left out from then on. The turns in
    `warm` are taken once before: what is compiled then would make the first round look too long to have a second.
    """
    for name in warm:
        turns[name](False)
        release()
    costs: dict[str, list[Cost]] = {name: [] for name in turns}
    names = list(turns)
    began, longest_s = time.perf_counter(), 0.0
    for number in range(rounds):
        started = time.perf_counter()
        if number and started - began + longest_s > budget_s:
            break
        for name in (*names[number % len(names) :], *names[: number % len(names)]):
            if name not in costs:
                continue
            try:
                costs[name].append(turns[name](number == 0))
            except torch.OutOfMemoryError:
                del costs[name]
            release()
        longest_s = max(longest_s, time.perf_counter() - started)
    return costs


def release() -> None:
    """Give back what the last turn held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def ratio(costs: Costs, ours: Sequence[str], theirs: Sequence[str], clock: Clock = "wall") -> Spread | None:
    """Seconds an example of all of `ours` together over those of all of `theirs`, round by round; None where one is missing."""
    if any(name not in costs or not costs[name] for name in (*ours, *theirs)):
        return None
    rounds = range(min(len(costs[name]) for name in (*ours, *theirs)))
    above, below = ([sum(costs[name][i].seconds(clock) for name in side) for i in rounds] for side in (ours, theirs))
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


def worst(spreads: Sequence[Spread | None]) -> Spread | None:
    """The greatest by median: what is claimed of several sizes must hold of each. None where nothing was measured."""
    found = [spread for spread in spreads if spread is not None]
    return max(found, key=lambda spread: spread.median) if found else None


def summary(costs: Costs) -> dict[str, dict[str, Any]]:
    """Medians for the JSON, with each round's own figures."""
    return {
        name: {
            "ms_per_example": statistics.median(cost.seconds("wall") for cost in rounds) * 1e3,
            "cpu_ms_per_example": statistics.median(cost.seconds("cpu") for cost in rounds) * 1e3,
            "peak_mib": rounds[0].peak_mib,
            "tokens_per_example": statistics.median(cost.tokens / cost.examples for cost in rounds),
            "rounds": [asdict(cost) for cost in rounds],
        }
        for name, rounds in costs.items()
        if rounds
    }


class Stopwatch:
    """Wall and CPU seconds from `start` to `stop`; a GPU finishes its work first."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.wall_s = self.cpu_s = 0.0

    def start(self) -> None:
        self._wait()
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        self._wait()
        self.wall_s, self.cpu_s = time.perf_counter() - self._wall, time.process_time() - self._cpu

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


class PeakMemory:
    """The most that tensors held between `start` and `stop`, MiB.

    On a GPU all that is allocated, weights and optimiser included. On the CPU what comes on top of what stood at the
    start: activations, gradients, temporaries.
    """

    def __init__(self, device: str, *, wanted: bool = True) -> None:
        self._device, self._wanted = device, wanted
        self.mib = float("nan")

    def start(self) -> None:
        if not self._wanted:
            return
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        self._profile = torch.profiler.profile(activities=activities, profile_memory=True)
        self._profile.start()

    def stop(self) -> None:
        if not self._wanted:
            return
        if self._device == "cuda":
            self.mib = torch.cuda.max_memory_allocated() / 2**20
            return
        self._profile.stop()
        held = peak = 0
        results: Any = self._profile.profiler
        events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        self.mib = peak / 2**20
        del self._profile


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines)
