"""Workers wanted in; Ray actors, kept at that number whatever dies, and what comes of the jobs they are given, out."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import OutOfMemoryError, RayError

from kidcore.errors import KidpipeError
from kidcore.version import kidpipe_version
from pipeline.workers.jobs import Answer, Greeting, Job, News
from pipeline.workers.worker import Place, StageBodies, Worker

_LOG = logging.getLogger(__name__)
IN_FLIGHT = 2
"""Jobs that a worker holds: one that computes, and one whose tables are read or written meanwhile."""
_MOST_STARTS = 3
"""Workers of a seat that may die in a row before they have said a word."""
Kind = Literal["engine", "sql"]


@dataclass(eq=False)
class Seat:
    """A place for one worker; a dead one is followed by another."""

    kind: Kind
    number: int
    actor: Any = None
    greeting: Greeting | None = None
    """What the worker said; None until it is there."""
    jobs: dict[Any, Job] = field(default_factory=dict)
    """By what Ray calls the answer to come, oldest first."""
    model: str = ""
    """What its engine holds."""
    news: News = field(default_factory=News)
    """What it last said of the shard that it computes."""
    failed_starts: int = 0
    rows: int = 0
    shards: int = 0
    computed_s: float = 0.0
    idle_s: float = 0.0

    @property
    def is_there(self) -> bool:
        """Whether its worker can be given work."""
        return self.greeting is not None

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


@dataclass(frozen=True)
class Answered:
    """A job came to an end, good or bad."""

    seat: Seat
    job: Job
    answer: Answer


@dataclass(frozen=True)
class Died:
    """A worker is gone, with the jobs that it held, oldest first."""

    seat: Seat
    jobs: list[Job]
    reason: str


class WorkerPool:
    """The workers of a build.

    Args:
        places: where the workers of a kind work.
        bodies: gives them their stages.
        gpus: GPUs for each engine; 0 = it runs on the CPU, or elsewhere.
    """

    def __init__(self, places: Mapping[Kind, Place], bodies: Callable[[], StageBodies], gpus: int) -> None:
        self._places, self._bodies, self._gpus = places, bodies, gpus
        self._waiting: dict[Any, Seat] = {}
        """What Ray owes us, and the seat that owes it: greetings and answers."""
        self._asked: dict[Any, Seat] = {}
        """As `_waiting`, of news that nobody waits for."""
        self.seats: list[Seat] = []

    def want(self, kind: Kind, number: int) -> None:
        """Have at least so many workers of a kind."""
        have = sum(seat.kind == kind for seat in self.seats)
        for place in range(have, number):
            seat = Seat(kind, place)
            self.seats.append(seat)
            self._start(seat)

    def holding(self, kind: Kind, number: int) -> list[Seat]:
        """Workers of a kind that are there, and hold so many jobs."""
        return [seat for seat in self.seats if seat.kind == kind and seat.greeting and len(seat.jobs) == number]

    def give(self, seat: Seat, job: Job) -> None:
        reference = seat.actor.make.remote(job)
        seat.jobs[reference] = job
        self._waiting[reference] = seat

    def wait(self, seconds: float) -> list[Answered | Died]:
        """What happened, as soon as something did; nothing after `seconds`."""
        if not self._waiting:
            time.sleep(seconds)
            return []
        ready, _ = ray.wait(list(self._waiting), num_returns=1, timeout=seconds)
        return [event for reference in ready if (event := self._receive(reference)) is not None]

    def ask(self) -> None:
        """Take the news that came since the last call, and ask for more; who can't say is heard of by `wait`."""
        told = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)[0] if self._asked else []
        for reference in told:
            seat = self._asked.pop(reference)
            with suppress(RayError):
                seat.news = ray.get(reference)
        silent = set(self._asked.values())
        for seat in self.seats:
            if seat.jobs and seat not in silent:
                self._asked[seat.actor.tell.remote()] = seat

    def replace(self, seat: Seat) -> list[Job]:
        """Put another worker into a seat; the jobs that it held."""
        jobs = list(seat.jobs.values())
        self._drop(seat)
        self._start(seat)
        return jobs

    def close(self) -> None:
        """Kill the workers, whatever they are at."""
        for seat in self.seats:
            self._drop(seat)
        self.seats = []

    def _start(self, seat: Seat) -> None:
        gpus = self._gpus if seat.kind == "engine" else 0
        # A death is ours to see and to count, so Ray restarts nothing. Cores are not reserved: there may be fewer than workers.
        # Beside its jobs a worker can say how far it is.
        options = {"max_restarts": 0, "max_task_retries": 0, "num_cpus": 0, "num_gpus": gpus}
        actor = ray.remote(Worker).options(**options, max_concurrency=IN_FLIGHT + 1, scheduling_strategy="SPREAD")
        seat.actor, seat.greeting = actor.remote(self._places[seat.kind], self._bodies), None
        seat.model, seat.news = "", News()
        self._waiting[seat.actor.greet.remote()] = seat

    def _drop(self, seat: Seat) -> None:
        for owed in (self._waiting, self._asked):
            for reference in [reference for reference, owner in owed.items() if owner is seat]:
                del owed[reference]
        seat.jobs.clear()
        ray.kill(seat.actor)

    def _receive(self, reference: Any) -> Answered | Died | None:
        seat = self._waiting.get(reference)
        if seat is None:
            return None  # of a worker that died with an earlier one of these
        try:
            answer = ray.get(reference)
        except RayError as error:
            return self._bury(seat, error)
        del self._waiting[reference]
        if isinstance(answer, Greeting):
            self._welcome(seat, answer)
            return None
        return Answered(seat, seat.jobs.pop(reference), answer)

    def _bury(self, seat: Seat, error: RayError) -> Died:
        reason = _reason(error)
        seat.failed_starts += seat.greeting is None
        if seat.failed_starts >= _MOST_STARTS:
            raise KidpipeError(
                f"a worker does not start: {reason}",
                where=f"{seat}, {_MOST_STARTS} times in a row",
                fix="install the same version of kidpipe[ray] on every node; --verbose lets Ray speak",
            ) from error
        _LOG.debug("%s died: %s", seat, error)
        return Died(seat, self.replace(seat), reason)

    def _welcome(self, seat: Seat, greeting: Greeting) -> None:
        ours = kidpipe_version()
        if greeting.version != ours:
            raise KidpipeError(
                f"a worker has another kidpipe: {greeting.version} instead of {ours}",
                where=f"{seat} on {greeting.node}",
                fix="install the same version on every node",
            )
        place = self._places[seat.kind]
        if not greeting.sees_store:
            raise KidpipeError(
                "a worker does not see the store of this build",
                where=f"{place.store} on {greeting.node}",
                fix="put store.path on a file system that every node has under the same name",
            )
        seat.greeting, seat.failed_starts = greeting, 0


def _reason(error: RayError) -> str:
    """In a few words; Ray's own are many."""
    text = " ".join(str(error).split())
    if "creation task" in text:
        return text.rsplit("Error: ", 1)[-1] if "Error: " in text else text
    if isinstance(error, OutOfMemoryError) or "low on memory" in text:
        return "the machine was short of memory, and Ray ended it"
    if "node" in text and "died" in text and "worker process has died" not in text:
        return "its node is gone"
    return "its process was killed or crashed"
