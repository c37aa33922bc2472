"""The shards of a part in; which of its queries an example may show, and in each epoch those that it does, out.

An example has several views of imperfect SQL, several answers of a student or of the teacher. Epochs take turns through all of
them, or through those that became of use when they were executed: no teacher is asked for that again.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc

from kidcore.config.train_settings import TrainSettings
from kidcore.method.methods import METHODS, OUTCOMES, chooses_views, takes_correct_answers
from train.data.shards import PartFiles, ShardRows, read_columns, read_shard, read_usable_ids
from train.data.shared_rows import SharedRows


@dataclass
class Views:
    """The queries of one stage and part, as one epoch shows them. A shard is read when it is first asked for."""

    files: tuple[Path, ...]
    stage: str
    choices: Mapping[str, list[int]] | None
    """Views by example id; None where every example may show all of them."""
    is_strict: bool
    """Whether an example without a choice shows nothing; else any view."""
    epoch: int
    number: int
    """Views that an example shows in an epoch."""
    shared: SharedRows | None = None
    _shards: dict[int, ShardRows] = field(default_factory=dict)

    def of(self, example_id: str) -> list[ShardRows]:
        """The shards whose row of the example is shown; fewer than `number` where it has no more choices."""
        return [self._shard(view) for view in turns(self._choices(example_id), self.epoch, self.number)]

    def _choices(self, example_id: str) -> list[int]:
        every = list(range(len(self.files)))
        if self.choices is None:
            return every
        return self.choices.get(example_id, []) or ([] if self.is_strict else every)

    def _shard(self, view: int) -> ShardRows:
        if view not in self._shards:
            self._shards[view] = read_shard(self.files[view], self.stage, self.shared)
        return self._shards[view]


def views_of(
    files: PartFiles, stage: str, settings: TrainSettings, epoch: int, number: int, shared: SharedRows | None = None
) -> Views:
    """The views that `settings` let the examples of a part show of what `stage` made."""
    shown = files.of(stage)
    choices = None
    if takes_correct_answers(settings) and stage == METHODS[settings.method].answers:
        choices = correct_answers(files, stage)
    elif chooses_views(settings):
        choices = plausible_views(files, stage)
    return Views(shown, stage, choices, settings.view_choice == "only_plausible", epoch, number, shared)


def turns(choices: list[int], epoch: int, number: int) -> list[int]:
    """`number` of the choices, or all where there are fewer; consecutive epochs take turns through all of them."""
    count = min(number, len(choices))
    return [choices[(epoch * count + place) % len(choices)] for place in range(count)]


def plausible_views(files: PartFiles, stage: str) -> dict[str, list[int]]:
    """By example, the views that execute and give another result than gold: what a student that errs would write."""
    return _chosen(files, stage, is_same=False)


def correct_answers(files: PartFiles, stage: str) -> dict[str, list[int]]:
    """By example, the answers whose result is gold's (rejection sampling); of those that may be trained on."""
    allowed = [set(read_usable_ids(path)) for path in files.of(stage)]
    found = {
        example_id: [view for view in views if example_id in allowed[view]]
        for example_id, views in _chosen(files, stage, is_same=True).items()
    }
    return {example_id: views for example_id, views in found.items() if views}


def _chosen(files: PartFiles, stage: str, *, is_same: bool) -> dict[str, list[int]]:
    """By example, the views whose SQL executes and gives gold's result, or another one."""
    found: dict[str, list[int]] = defaultdict(list)
    for view, path in enumerate(files.of(OUTCOMES[stage])):
        table = read_columns(path, ["example_id", "executes", "same_result"])
        matches = table["same_result"] if is_same else pc.invert(table["same_result"])
        for example_id in table.filter(pc.and_(table["executes"], matches))["example_id"].to_pylist():
            found[str(example_id)].append(view)
    return dict(found)
