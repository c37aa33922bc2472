"""The shards of a build in; the examples of any optimiser step out, as a function of (seed, step) alone.

The examples of all epochs form one stream, cut into steps of batch_size. An epoch takes the parts in shuffled order,
`buffer_shards` at a time (a window); a window is in memory at once and its groups of questions are shuffled together.
To start at any step, only the windows that hold it are read.
"""

import bisect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.method.methods import METHODS, ROLLOUTS, gold_share, gold_weight, mixes_rollouts, stages_read, takes_correct_answers
from kidcore.store.stages import STAGE_TABLE
from train.data.examples import TrainingExample, on_its_own
from train.data.index import ExampleIndex, index_of
from train.data.sampler import group_order, is_drawn, part_order
from train.data.shards import PartFiles, ShardRows, gold_example, mixed_example, read_shard
from train.data.shared_rows import SharedRows, shared_in
from train.data.views import views_of

_WINDOWS_KEPT = 16
"""Times `buffer_shards`: decoded shards that are kept for other processes, several a part, of windows that some are ahead in."""

_NO_CAP = sys.maxsize
_USUAL = int(TrainSettings.left_out("holdout_most"))


@dataclass(frozen=True)
class Source:
    """What a manifest says to train on: its parts, the EOS token, and the digest that a run is tied to."""

    parts: list[PartFiles]
    eos_id: int
    digest: str
    longest: int = 0
    """Tokens of the longest sequence, prompt and SQL; 0 = not known."""
    cache: Path | None = None
    """A folder of this machine's own for what is made of the shards once and read by all of its processes; None: no such."""


def keeping_holdout(settings: TrainSettings, held_out: int) -> TrainSettings:
    """The settings with which a run goes on that has `held_out` examples for evaluation: 0 = it begins, -1 = not known.

    Before there was `train.holdout_most` a run kept all of its share, and trained on the others in their order: it still does.
    """
    if 0 <= held_out <= settings.holdout_most:
        return settings
    return settings.model_copy(update={"holdout_most": _NO_CAP})


@dataclass(frozen=True)
class _Window:
    """Parts shuffled together, and the number of the epoch's first example among them."""

    parts: list[int]
    first: int


@dataclass
class Dataset:
    """The training stream and the holdout of one Source under one method's settings."""

    source: Source
    settings: TrainSettings
    is_shared: bool = False
    """Whether other processes of this machine read the same stream."""
    _windows: dict[int, list[_Window]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.source, self.settings)
        if self.num_examples == 0:
            answers = METHODS[self.settings.method].answers
            read_last = answers if answers and "reason string?" in STAGE_TABLE[answers].columns else "ingest"
            why = f"see why rows were set aside: kidpipe query 'select reason, count(*) from {read_last} group by 1'"
            if takes_correct_answers(self.settings):
                why = "no answer gives gold's result: kidpipe query 'from generate_outcome' shows; train.answers = all takes all"
            elif self.num_held_out:
                why = f"all {self.num_held_out} examples are held out: lower train.holdout, or set it to 0"
            raise KidpipeError(
                "there is no example to train on",
                where=f"{len(self.source.parts)} parts, train.holdout = {self.settings.holdout}",
                fix=why,
            )

    @cached_property
    def _index(self) -> ExampleIndex:
        return index_of(self.source.parts, self.settings, self.source.cache)

    @property
    def _shared(self) -> SharedRows | None:
        cache = self.source.cache
        return shared_in(cache, _WINDOWS_KEPT * self.settings.buffer_shards) if cache and self.is_shared else None

    @property
    def num_examples(self) -> int:
        """Examples of one epoch."""
        return sum(self._index.num_train)

    @property
    def num_held_out(self) -> int:
        """Examples kept for evaluation."""
        return sum(self._index.num_held)

    @property
    def said_of_holdout(self) -> str:
        """What is to be said where it is larger than today's would be."""
        if self.settings.holdout_most < _NO_CAP or self.num_held_out <= _USUAL:
            return ""
        kept = f"{self.num_held_out:,} examples for evaluation, and not train.holdout_most"
        return f"; an older kidpipe began this run: it goes on keeping {kept}"

    @property
    def said_of_views(self) -> str:
        """What is to be said where no epoch of the run comes to some of the views that a model was asked for."""
        traits = METHODS[self.settings.method]
        views = len(self.source.parts[0].of(traits.answers or traits.imperfect))
        # The last step may be filled up with examples of another epoch.
        epochs = max(1, -(-(self.num_steps - 1) * self.settings.batch_size // self.num_examples))
        shown = epochs * (1 if traits.answers else self.settings.views_per_step)
        if views <= shown:
            return ""
        fix = "" if traits.answers else " or train.views_per_step"
        return (
            f"each example has {views} queries to show, and this run comes to {shown} of them: raise train.epochs{fix} for more"
        )

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every example once, rounded up."""
        return -(-self.num_examples // self.settings.batch_size)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run."""
        if self.settings.max_steps:
            return self.settings.max_steps
        return max(1, -(-round(self.settings.epochs * self.num_examples) // self.settings.batch_size))

    def steps(self, first: int = 0, every: int = 1) -> Iterator[list[TrainingExample]]:
        """The examples of step `first` and of each `every`-th step after it, without end."""
        position = first * self.settings.batch_size
        epoch, offset = divmod(position, self.num_examples)
        number, batch = 0, []
        while True:
            for row in self._epoch(epoch, offset):
                batch.append(row)
                if len(batch) == self.settings.batch_size:
                    if number % every == 0:
                        yield [part.example(example_id) for part, example_id in batch]
                    number, batch = number + 1, []
            epoch, offset = epoch + 1, 0

    def held_out(self, share: float = 0.0) -> list[list[TrainingExample]]:
        """The held-out examples, one list a part: gold whatever the weights are, and view 0 where imperfect views are read.

        They have arrays of their own: of each shard they are a few rows.

        Args:
            share: of the parts, that are read last. Processes which share shards and begin at other places decode other ones.
        """
        numbers = [number for number, count in enumerate(self._index.num_held) if count]
        begin, found = int(share * len(numbers)), {}
        for number in numbers[begin:] + numbers[:begin]:
            part = _HeldOut(self.source, number, self.settings, self._shared)
            found[number] = [on_its_own(part.example(example_id)) for example_id in self._index.part(number).held]
        return [found[number] for number in numbers]

    def _epoch(self, epoch: int, offset: int) -> Iterator[tuple["_Part", str]]:
        """The part and id of each example of an epoch, from the `offset`-th on."""
        windows = self._epoch_windows(epoch)
        start = bisect.bisect_right([window.first for window in windows], offset) - 1
        for window in windows[start:]:
            parts = [_Part(self.source, number, self.settings, epoch, self._shared) for number in window.parts]
            pairs = {number: self._index.part(number).train for number in window.parts}
            home = {x: part for number, part in zip(window.parts, parts, strict=True) for x, _db_id in pairs[number]}
            ordered = group_order(sorted(chain(*pairs.values())), self.settings.group_size, self.settings.seed, epoch)
            for example_id in ordered[max(0, offset - window.first) :]:
                yield home[example_id], example_id

    def _epoch_windows(self, epoch: int) -> list[_Window]:
        if epoch not in self._windows:
            order = part_order(range(len(self.source.parts)), self.settings.seed, epoch)
            size, first, windows = self.settings.buffer_shards, 0, []
            for start in range(0, len(order), size):
                parts = order[start : start + size]
                windows.append(_Window(parts, first))
                first += sum(self._index.num_train[number] for number in parts)
            self._windows = {epoch: windows}
        return self._windows[epoch]


class _Part:
    """The shards of one part that the method learns from in one epoch."""

    def __init__(self, source: Source, number: int, settings: TrainSettings, epoch: int, shared: SharedRows | None) -> None:
        files, self._eos_id = source.parts[number], source.eos_id
        self._settings, self._epoch = settings, epoch
        traits = self._traits = METHODS[settings.method]
        self._gold = read_shard(files.one(traits.gold), traits.gold, shared) if self._reads_gold() else None
        stage = traits.answers or traits.imperfect
        shown = 1 if traits.answers else settings.views_per_step
        self._views = views_of(files, stage, settings, epoch, shown, shared) if stage else None
        # Answers take turns like other views, however many of each there are.
        self._answers = views_of(files, ROLLOUTS, settings, epoch, shown, shared) if mixes_rollouts(settings) else None

    def _reads_gold(self) -> bool:
        return not self._traits.answers and self._traits.gold in stages_read(self._settings)

    def example(self, example_id: str) -> TrainingExample:
        """What the epoch teaches of an example."""
        learn_gold = gold_weight(self._settings) > 0
        if not self._traits.imperfect:
            # An online method makes its own sequences from gold, whatever it does with it.
            learn_gold = learn_gold or self._traits.is_online
            shard = self._gold or self._shown(example_id)[0]
            return gold_example(shard, shard.row(example_id), self._eos_id, learn_gold=learn_gold)
        views = []
        if is_drawn(self._settings.imperfect_share, *self._draw("imperfect", example_id)):
            views = self._shown(example_id)
        shows_gold = not views or is_drawn(gold_share(self._settings), *self._draw("gold", example_id))
        return mixed_example(
            views,
            self._gold if shows_gold else None,
            example_id,
            self._eos_id,
            learn_gold=learn_gold,
        )

    def _shown(self, example_id: str) -> list[ShardRows]:
        """The views of an example: stored answers of a student where those are drawn, and it has some to show."""
        assert self._views is not None
        views: list[ShardRows] = []
        if self._answers is not None and is_drawn(self._settings.rollout_share, *self._draw("rollout", example_id)):
            views = self._answers.of(example_id)
        return views or self._views.of(example_id)

    def _draw(self, purpose: str, example_id: str) -> tuple[object, ...]:
        return purpose, self._settings.seed, self._epoch, example_id


class _HeldOut:
    """The shard of one part that evaluation reads: gold, or view 0 where imperfect views are read, which holds gold too."""

    def __init__(self, source: Source, number: int, settings: TrainSettings, shared: SharedRows | None) -> None:
        files, self._eos_id = source.parts[number], source.eos_id
        traits = METHODS[settings.method]
        stage = traits.imperfect or traits.gold
        self._shard = read_shard(files.of(stage)[0], stage, shared)
        self._has_views = bool(traits.imperfect)

    def example(self, example_id: str) -> TrainingExample:
        """Gold whatever the weights are."""
        if self._has_views:
            return mixed_example([self._shard], None, example_id, self._eos_id, learn_gold=True)
        return gold_example(self._shard, self._shard.row(example_id), self._eos_id, learn_gold=True)


_LACKING = {
    "gold_score": ("learns from the teacher's scores on gold SQL", "run kidpipe build-imperfect"),
    "score": ("learns from the teacher's scores on imperfect SQL", "run kidpipe build-imperfect"),
    "outcome": ("chooses queries by what became of them", "set outcome.execute = true and run kidpipe build-imperfect"),
    "rollout_outcome": (
        "chooses answers by what became of them",
        "set outcome.execute = true and run kidpipe build-imperfect --until rollout_outcome",
    ),
    "generate_outcome": (
        "is to learn from the teacher's correct answers, which nobody looked for",
        "set outcome.execute = true and run kidpipe build-imperfect --until generate_outcome",
    ),
    "generate": ("learns from the teacher's own answers", "run kidpipe build-imperfect --until generate"),
    "rollout_score": ("learns from scored answers of a student", "run kidpipe build-imperfect --until rollout_score"),
}


def _check(source: Source, settings: TrainSettings) -> None:
    """Refuse what the build does not hold, before anything is read."""
    method, traits, views = settings.method, METHODS[settings.method], settings.views_per_step
    for files in source.parts:
        if traits.imperfect and len(files.of(traits.imperfect)) < max(1, views):
            raise KidpipeError(
                f"method {method} wants {views} views a step, and the build holds {len(files.of(traits.imperfect))}",
                where=f"part {files.part}",
                fix=f"raise {STAGE_TABLE[traits.imperfect].views} and build again, or lower train.views_per_step",
            )
        for stage in stages_read(settings):
            if not files.of(stage):
                why, fix = _LACKING[stage]
                raise KidpipeError(f"method {method} {why}, and the build holds none", where=f"part {files.part}", fix=fix)
