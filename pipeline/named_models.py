"""The names of models in a configuration in; each resolved to its files, or None where nobody needs it, out."""

import logging
from pathlib import Path

from kidcore.config.config import Config
from kidcore.config.digests import FileDigests
from kidcore.errors import KidpipeError
from kidcore.models.sources import UNBOUNDED, ModelSource, read_source, resolve, tokenizer_folder
from kidcore.models.teachers import is_url, known_length, resolve_teacher
from kidcore.store.manifest import read_manifest
from kidcore.store.model_names import model_names
from kidcore.store.stages import STAGE_TABLE
from kidcore.store.store import Store

_NO_TOKEN = -1
"""The id of none, where it is not known which one a model's configuration names."""
_LOG = logging.getLogger(__name__)


def find_teacher(config: Config, is_needed: bool, digests: FileDigests) -> ModelSource | None:
    """The teacher that the configuration names; None where it names none, or a recorded one does as well, and none is asked."""
    if not config.teacher.model and not is_needed:
        return None
    if not config.teacher.model:
        raise KidpipeError("no teacher is named", where="teacher.model", fix="kidpipe build-imperfect --teacher MODEL")
    recorded = None if is_needed else recorded_teacher(config)
    if recorded is not None and is_url(config.teacher.model):
        return None  # nobody is asked for what is known
    if recorded is not None and recorded.identity.startswith("local:") and not Path(recorded.name).expanduser().is_dir():
        return None  # a folder that went away is not to be looked for on the Hub
    return resolve_teacher(config.teacher, digests)


def tokenizer_of_served(config: Config, digests: FileDigests) -> ModelSource | None:
    """A source whose tokenizer is that of a teacher behind a URL, who need not be asked."""
    if not is_url(config.teacher.model) or not config.teacher.tokenizer:
        return None
    folder = tokenizer_folder(config.teacher.tokenizer, config.teacher.revision)
    return ModelSource(config.teacher.model, folder, "", known_length(config.teacher.model, digests), 0, "", "")


def recorded_teacher(config: Config) -> ModelSource | None:
    """The teacher of the latest build, where the configuration names none or that one: known, though it cannot be asked.

    So that a build which stops before the teacher is needed still finds what the teacher made.
    """
    store = Store(Path(config.store.path))
    manifest = read_manifest(store)
    teacher = manifest.facts.teacher if manifest else None
    if manifest is None or teacher is None:
        return None
    if config.teacher.model and config.teacher.model not in model_names(store, teacher.identity):
        return None
    # What its configuration would say, from what was in keys beside it: pipeline/model_keys.py.
    settings = {name: record.settings for name, record in manifest.stages.items()}
    ends = any("answer.end" in settings.get(row.name, ()) for row in STAGE_TABLE.values() if row.model == "teacher")
    eos = _NO_TOKEN if ends else manifest.facts.eos_id
    pad = _NO_TOKEN if "mask_token.id" in settings.get("predict", ()) else manifest.facts.mask_id
    longest = manifest.facts.max_tokens if "prompt.max_length" in settings.get("ingest", ()) else UNBOUNDED
    return ModelSource(
        config.teacher.model, Path(), teacher.identity, longest, teacher.vocab_size, "", "", eos_id=eos, pad_id=pad
    )


def find_predictor(config: Config, is_needed: bool, digests: FileDigests) -> ModelSource | None:
    """The student that fills holes. Where it is not needed, one that is not there is None instead of an error."""
    setting, name = config.student_that_fills
    try:
        predictor = find_model(name, setting, digests)
    except KidpipeError:
        if is_needed:
            raise
        return None
    if predictor is None and is_needed:
        why = "predict.fill is 'verify'" if config.predict.fill == "verify" else "predict.predictor is 'student'"
        raise KidpipeError(f"{why} but no checkpoint is named", fix=f"set {setting}")
    return predictor


def find_start(config: Config, is_needed: bool, digests: FileDigests) -> ModelSource | None:
    """The student that answers. Where no stage asks for it, only a folder is looked at: nothing is downloaded to be listed."""
    name, setting = (config.rollout.model, "rollout.model") if config.rollout.model else (config.train.student, "train.student")
    if not is_needed and not Path(name or " ").expanduser().is_dir():
        return None
    try:
        start = find_model(name, setting, digests)
    except KidpipeError:
        if is_needed:
            raise
        return None
    if start is None and is_needed:
        raise KidpipeError(
            "no student is named whose answers could be stored",
            where="rollout.model",
            fix="set train.student (the start of the run), or rollout.model",
        )
    return start


def warn_of_short_students(config: Config, start: ModelSource | None, longest: int) -> None:
    """Say before the teacher works that a student takes less than ingest lets through: training refuses it, hours later."""
    trained = Path(config.train.student or " ").expanduser()
    students = [start, read_source(trained) if trained.is_dir() else None]
    for name, length in {student.name: student.max_length for student in students if student is not None}.items():
        if length < longest:
            fix = "lower ingest.max_prompt_tokens and ingest.max_sql_tokens to train it on these data"
            _LOG.warning("%s takes %d tokens, and ingest lets up to %d through: %s", name, length, longest, fix)


def find_model(model: str, setting: str, digests: FileDigests) -> ModelSource | None:
    """What `setting` names; None where it is empty. An error says which setting it was."""
    if not model:
        return None
    try:
        return resolve(model, digests=digests)
    except KidpipeError as error:
        raise KidpipeError(error.what, where=f"{setting} = {model!r}", fix=error.fix) from None
