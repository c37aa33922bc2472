"""A session and what was just done in; the command to type next out, with the options that this one was given."""

import shlex
from collections.abc import Mapping, Sequence

from kidcore.errors import KidpipeError
from kidcore.method.methods import METHODS
from kidcore.sql.availability import lacking_databases
from kidcore.sql.datasets import DataSet, Example, Split, read
from kidcore.store.stages import STAGE_TABLE, targets_of
from kidpipe.commands.session import Session
from pipeline.outline import UnreadExamples, read_outlined

_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "build-imperfect": {
        "teacher.model": "--teacher",
        "data.path": "--data",
        "data.layout": "--layout",
        "engine.backend": "--backend",
        "engine.ray": "--ray",
    },
    "train": {"train.student": "--student", "train.method": "--method", "data.path": "--data", "data.layout": "--layout"},
    "eval": {"data.path": "--data", "data.layout": "--layout", "engine.backend": "--backend"},
    "ask": {"engine.backend": "--backend"},
}
"""Settings with an option of their own; any other is given as --set."""
_LATER: Mapping[str, tuple[str, ...]] = {"eval": ("teacher", "train"), "ask": ("teacher", "train", "data")}
"""Sections that decide nothing from this command on."""
_BUILDS_ONLY = ("engine.workers", "engine.ray")


def next_command(session: Session, command: str, *arguments: str, without: Sequence[str] = (), **lacking: str) -> str:
    """`kidpipe COMMAND ...` with the settings that were given as flags, so that it finds the same data and store.

    Args:
        without: sections whose settings the command is not to get.
        lacking: by `section__field`, what stands for a setting that the command needs and nobody has set (MODEL).
    """
    words = ["kidpipe", command, *arguments]
    options = _OPTIONS.get(command, {})
    given = {name: _value(session, name) for name in session.loaded.origins if session.loaded.origin(name) == "flag"}
    needless = (*_LATER.get(command, ()), *without)
    unset = {name.replace("__", ".") for name in lacking}
    given = {
        name: value for name, value in given.items() if name.partition(".")[0] not in needless and (value or name not in unset)
    }
    if command != "build-imperfect":
        given = {name: value for name, value in given.items() if name not in _BUILDS_ONLY}
    for name, value in given.items():
        words += [options[name], value] if name in options else ["--set", f"{name}={value}"]
    if session.loaded.file is not None:
        words += ["--config", str(session.loaded.file)]
    text = shlex.join(words)
    for name, placeholder in lacking.items():
        setting = name.replace("__", ".")
        if not _value(session, setting):
            text += f" {options[setting]} {placeholder}"
    return text


def after_build(session: Session, until: str) -> str:
    """What follows `build-imperfect --until UNTIL`."""
    if "score" in targets_of(until):
        until = "score"
    method = next((name for name, traits in METHODS.items() if traits.stage == until), "")
    if until == "score" or (method and STAGE_TABLE[until].is_on_request):
        only_one = f" --method {method}" if until != "score" else ""
        return next_command(session, "train", train__student="MODEL") + only_one
    return next_command(session, "build-imperfect", teacher__model="MODEL")


def after_teacher(session: Session, teacher: str) -> str:
    """The build with a teacher that was fine-tuned; revision, tokenizer and precision are those of the one before."""
    return next_command(session, "build-imperfect", "--teacher", teacher, without=("teacher", "train", "eval"))


def after_training(session: Session, run: str) -> str:
    """What follows a finished run: its evaluation, or a question where nothing is held out."""
    return after_evaluation(session, run) if fails_at_eval(session) else next_command(session, "eval", run)


def after_evaluation(session: Session, model: str) -> str:
    """A question of the data's own on its database, which whoever reads it replaces."""
    question, file = "QUESTION", "FILE"
    splits: tuple[Split, ...] = ("dev", "train")
    for split in splits:
        try:
            dataset, examples = _some_examples(session, split)
        except KidpipeError:
            continue
        found = next((e for e in examples if not e.fault and dataset.database(e.db_id).fault is None), None)
        if found:
            question, file = found.question, str(dataset.database(found.db_id).path)
            break
    return next_command(session, "ask", question, "--db", file, *([model] if model else []))


def _some_examples(session: Session, split: Split) -> tuple[DataSet, Sequence[Example]]:
    """The examples of a split, or a few where all of them are many, and not read yet."""
    config = session.config
    if split == "dev":
        dataset = read(config.data, split)
        return dataset, dataset.examples
    digests = session.store.digests
    dataset, outline = read_outlined(config.data, config.ingest.shard_rows, session.store, digests)
    return dataset, outline.sample if isinstance(dataset.examples, UnreadExamples) else dataset.examples


def fails_at_eval(session: Session) -> KidpipeError | None:
    """Why `kidpipe eval` would fail on this data; None where it would not."""
    try:
        dataset = read(session.config.data, "dev")
        lacking_databases(dataset, dataset.examples)
    except KidpipeError as error:
        return error
    if not dataset.examples:
        return KidpipeError("no question is held out", where="data.dev", fix="put some into the file of held-out examples")
    return None


def _value(session: Session, name: str) -> str:
    section, _, field = name.partition(".")
    value: object = getattr(getattr(session.config, section), field)
    return str(value).lower() if isinstance(value, bool) else str(value)
