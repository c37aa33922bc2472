"""Axes of a comparison (settings with the values to try) in, the runs that really differ out."""

import itertools
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kidcore.config.config import Config
from kidcore.config.config_load import setting_names
from kidcore.config.settings import fingerprint
from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.method.methods import METHODS, built_until, looks_at, stages_read
from kidcore.store.stages import STAGES, sections_of, targets_of

METHOD, SEED, ARM = "train.method", "train.seed", "arm"

# Sections that decide the shards of some stages only.
_OPTIONAL = sections_of(STAGES) - sections_of(["ingest"])
_DATA_SEEDS = ("mask.seed", "predict.seed", "generate.seed", "rollout.seed")


@dataclass(frozen=True)
class Trial:
    """One run of the comparison."""

    config: Config
    axes: Mapping[str, Any]
    """The value on each axis; None where it makes no difference to this run."""
    until: str
    """The last stages whose shards the run reads, with commas between."""

    @property
    def group(self) -> tuple[tuple[str, Any], ...]:
        """What the run shares with those that differ from it in the seed alone."""
        return tuple((name, value) for name, value in self.axes.items() if name != SEED)

    @property
    def seed(self) -> int:
        return self.config.train.seed

    @property
    def build(self) -> str:
        """The same for runs that can train on one build."""
        # What became of SQL when it was executed is read beside the stages that lead to the last one.
        stages = {*targets_of(self.until), *stages_read(self.config.train)}
        sections = sorted({"data", *sections_of(stages)})
        # The student answers, or fills, where no other model is named for that.
        student = self.config.train.student
        return fingerprint([self.until, student, {name: getattr(self.config, name).model_dump() for name in sections}])

    def describe(self) -> str:
        """`kid, mask.ratio 0.3, seed 2`."""
        if ARM in self.axes:
            return f"{self.axes[ARM]}, seed {self.seed}"
        others = [f"{name} {value}" for name, value in self.group if name != METHOD and value is not None]
        return ", ".join([self.config.train.method, *others, f"seed {self.seed}"])


def make_cells(
    resolve: Callable[[Mapping[str, Any]], Config], axes: Mapping[str, Sequence[Any]], *, seed_masks: bool = False
) -> list[Trial]:
    """Every combination of the axes, once: sft at five masking ratios is one run.

    Args:
        resolve: settings that are changed -> the whole configuration.
        axes: `section.field` -> values; method and seed are among them.
        seed_masks: let the seed also draw other masks and fills, which a build a seed pays for.
    """
    cells: dict[str, Trial] = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        # What the method looks at depends on other settings of the trainer too.
        asked = resolve({name: value for name, value in chosen.items() if name.startswith("train.")})
        if seed_masks:
            chosen |= dict.fromkeys(_DATA_SEEDS, chosen[SEED])
        counted = {name: value for name, value in chosen.items() if _matters(name, asked)}
        config = _with_defaults_elsewhere(resolve(counted))
        shown = {name: counted.get(name) for name in axes}
        cells.setdefault(fingerprint(config.model_dump()), Trial(config, shown, built_until(config.train)))
    return list(cells.values())


def make_arm_cells(
    resolve: Callable[[Mapping[str, Any]], Config], arms: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> list[Trial]:
    """Every named arm with every seed: recipes that differ in more than one setting and are no grid.

    Args:
        resolve: settings that are changed -> the whole configuration.
        arms: by name, the settings that make the arm; `train.seed` among them is a list of its own seeds.
        seeds: for the arms that name none.
    """
    cells: dict[str, Trial] = {}
    for name, changes in arms.items():
        for seed in changes.get(SEED, seeds):
            asked = resolve({**changes, SEED: seed})
            counted = {setting: value for setting, value in changes.items() if _matters(setting, asked)}
            config = _with_defaults_elsewhere(resolve({**counted, SEED: seed}))
            cell = Trial(config, {ARM: name, SEED: seed}, built_until(config.train))
            same = cells.setdefault(fingerprint(config.model_dump()), cell)
            # Within an arm it is a seed that was named twice: one run, as in a grid.
            if same.axes[ARM] != name:
                raise KidpipeError(
                    f"{name} is {same.axes[ARM]} over again",
                    where="--arms",
                    fix="leave one out, or name what sets it apart",
                )
    # Seed by seed: every arm has its first figure before one has its second.
    return sorted(cells.values(), key=lambda cell: cell.seed)


def _matters(name: str, config: Config) -> bool:
    """Whether a setting can change what a run of the method in `config` learns or how it is judged."""
    section, _, field = name.partition(".")
    if section == "train":
        return looks_at(config.train.method, field)
    return section not in _OPTIONAL or section in _needed(config)


def _needed(config: Config) -> frozenset[str]:
    return sections_of(stages_read(config.train)).union(METHODS[config.train.method].online_sections)


def _with_defaults_elsewhere(config: Config) -> Config:
    """Settings of the trainer that the method does not look at are put to their default: one run, one name."""
    fields = {name: info.default for name, info in TrainSettings.model_fields.items() if not _matters(f"train.{name}", config)}
    return config.model_copy(update={"train": config.train.model_copy(update=fields)})


def parse_list(option: str, text: str) -> list[Any]:
    """`0.1,0.2` as [0.1, 0.2]; words stay words."""
    values = []
    for word in (word.strip() for word in text.split(",")):
        if not word:
            raise KidpipeError(f"an empty place in the list: {text!r}", where=option, fix=f"{option} a,b,c")
        try:
            values.append(tomllib.loads(f"value = {word}")["value"])
        except tomllib.TOMLDecodeError:
            values.append(word)
    return values


def read_grid(path: Path) -> dict[str, list[Any]]:
    """Axes from a TOML file of `section.field = [values]`."""
    axes: dict[str, list[Any]] = {}
    for name, values in _settings_in(_read_toml(path, "--grid", "mask.ratio = [0.1, 0.2]")):
        if name not in setting_names() or not isinstance(values, list) or not values:
            raise KidpipeError(
                f"not an axis: {name} = {values!r}",
                where=str(path),
                fix="write section.field = [value, value], as in mask.ratio = [0.1, 0.2]; kidpipe config lists the fields",
            )
        axes[name] = values
    return axes


def read_arms(path: Path) -> dict[str, dict[str, Any]]:
    """Arms from a TOML file: a table an arm, under its name, with the settings that make it."""
    arms: dict[str, dict[str, Any]] = {}
    for arm, settings in _read_toml(path, "--arms", "[sft] and under it train.method = 'sft'").items():
        if not isinstance(settings, dict):
            raise KidpipeError(f"not an arm: {arm} = {settings!r}", where=str(path), fix=f"write [{arm}] and its settings below")
        arms[arm] = dict(_settings_in(settings))
        for name, value in arms[arm].items():
            if name not in setting_names():
                fix = "kidpipe config lists the fields"
                if isinstance(value, dict):  # TOML reads [kid-0.4] as a table in another
                    fix = f'write ["{arm}.{name.partition(".")[0]}"] if that is its name: a dot needs quotes'
                raise KidpipeError(f"no such setting: {name}", where=f"{path}, [{arm}]", fix=fix)
            if name == SEED and (not isinstance(value, list) or not value):
                raise KidpipeError(
                    f"not a list of seeds: {value!r}", where=f"{path}, [{arm}]", fix="train.seed = [0, 1], or leave it to --seeds"
                )
        if METHOD not in arms[arm]:
            raise KidpipeError("the arm names no method", where=f"{path}, [{arm}]", fix="train.method = 'kid', for example")
    if not arms:
        raise KidpipeError("no arm is in the file", where=str(path), fix="write [sft] and under it train.method = 'sft'")
    return arms


def _read_toml(path: Path, option: str, example: str) -> dict[str, Any]:
    if not path.is_file():
        raise KidpipeError(f"no such file: {path}", where=option, fix=f"write one: {example}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KidpipeError(f"not valid TOML: {error}", where=str(path), fix="mend that line") from None


def _settings_in(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """`section.field` with its value, for each in the tables of `document`."""
    return [
        (f"{section}.{field}" if field else section, value)
        for section, fields in document.items()
        for field, value in (fields.items() if isinstance(fields, dict) else [("", fields)])
    ]
