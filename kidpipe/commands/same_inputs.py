"""A configuration and a manifest in; a refusal where the shards were made from another teacher, predictor, tokenizer or data set.

Nothing is downloaded and no weights are loaded: digests of folders are remembered from the build, a name of the Hub is
compared as a name, and a server is asked once. What cannot be found any more cannot be compared, which is said and refused only
where the store knows that another name was meant: shards are complete without the teacher.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from kidcore.config.config import Config
from kidcore.errors import KidpipeError
from kidcore.models.sources import resolve
from kidcore.models.teachers import is_url, resolve_teacher
from kidcore.models.tokenizers import load_tokenizer, tokenizer_digest
from kidcore.sql.datasets import DataSet
from kidcore.store.manifest import Manifest
from kidcore.store.model_names import model_names
from kidcore.store.stages import STAGE_TABLE, made_from
from kidpipe.commands.session import Session
from pipeline.outline import read_outlined, split_parts

_LOG = logging.getLogger(__name__)
_HUB = "hub:"


def check_teacher(session: Session, manifest: Manifest, stages: Collection[str]) -> None:
    """Compare teacher, precision, predictor and tokenizer of the configuration with those that made the shards of `stages`.

    Raises:
        KidpipeError: they are others.
    """
    made = made_from(stages) & manifest.stages.keys()
    config = session.config
    compared: set[tuple[str, str]] = set()
    for name in sorted(made, key=list(STAGE_TABLE).index):
        row, recorded = STAGE_TABLE[name], manifest.stages[name].settings
        if not row.model:
            continue
        setting, named = _named(config, row.model)
        revision = config.teacher.revision if setting == "teacher.model" else ""
        weights = str(recorded[f"{row.model}.weights"])
        if named and (setting, weights) not in compared:  # a server is asked once, not for each stage
            _check_model(session, manifest, row.model, setting, named, revision, weights)
        compared.add((setting, weights))
        _check_precision(session, manifest, row.model, recorded)
    if any(STAGE_TABLE[name].model == "teacher" for name in made):
        _check_tokenizer(session, manifest)


def _named(config: Config, role: str) -> tuple[str, str]:
    """The setting that names the model of a role, and what it says."""
    if role == "start":
        return ("rollout.model", config.rollout.model) if config.rollout.model else ("train.student", config.train.student)
    if role == "predictor" and config.predict.is_students:
        return config.student_that_fills
    return "teacher.model", config.teacher.model


def _check_precision(session: Session, manifest: Manifest, role: str, recorded: Mapping[str, Any]) -> None:
    """A student that fills has a precision of its own, among the settings of its stage."""
    config = session.config
    if role == "start":
        setting, now, before = "rollout.dtype", config.rollout.dtype, recorded.get("rollout.dtype", "auto")
    elif role == "predictor" and config.predict.is_students:
        setting, now, before = "predict.dtype", config.predict.dtype, recorded.get("predict.dtype", "auto")
    else:
        setting, now, before = "teacher.dtype", config.teacher.dtype, recorded.get(f"{role}.dtype", "auto")
    if now != before and (config.teacher.model or now != "auto"):
        raise _other(manifest, f"the {role} ran in another precision: {before}, not {now}", f"{setting} = {now}")


def _check_model(session: Session, manifest: Manifest, role: str, setting: str, named: str, revision: str, recorded: str) -> None:
    names = model_names(session.store, recorded)
    made_by = f"{' or '.join(names)} ({_short(recorded)})" if names else _short(recorded)
    folder = Path(named).expanduser()
    is_served = is_url(named) and recorded.startswith("served:")
    if folder.is_dir() or is_served:
        digests = session.store.digests
        try:
            if is_served:
                now = resolve_teacher(session.config.teacher, digests, is_waited_for=False).identity
            else:
                now = resolve(named, revision, digests=digests).identity
        except KidpipeError as error:
            _LOG.info("the %s can't be compared with the one that made the shards: %s", role, error.what)
            return
        if now != recorded:
            what = f"the shards were made by another {role}: {made_by}, and the configuration's has other weights ({_short(now)})"
            raise _other(manifest, what, f"{setting} = {named}")
        return
    is_same = recorded.startswith(f"{_HUB}{named}@{_commit(revision)}") or named in names
    if not is_same and (names or recorded.startswith(_HUB)):
        raise _other(manifest, f"the shards were made by another {role}: {made_by}", f"{setting} = {named}")
    if not recorded.startswith(_HUB):
        _LOG.info("the %s %s is not there any more; the stored scores need it no more", role, named)


def _commit(revision: str) -> str:
    """The revision where it is a commit; branches and tags move, and where they point cannot be known from here."""
    return revision if len(revision) == 40 and set(revision) <= set("0123456789abcdef") else ""


def _check_tokenizer(session: Session, manifest: Manifest) -> None:
    teacher = session.config.teacher
    named = teacher.tokenizer if is_url(teacher.model) else teacher.model
    folder = Path(named).expanduser()
    if not named or not folder.is_dir():
        return
    now = tokenizer_digest(load_tokenizer(folder))
    if now != manifest.facts.tokenizer:
        what = f"the shards were made with another tokenizer: {manifest.facts.tokenizer[:12]}, the teacher's is {now[:12]}"
        raise _other(manifest, what, f"{'teacher.tokenizer' if is_url(teacher.model) else 'teacher.model'} = {named}")


def check_data(session: Session, manifest: Manifest) -> None:
    """Compare the data set of the configuration with the examples that were ingested.

    Raises:
        KidpipeError: it holds other examples.
    """
    settings = session.config.data
    digests, rows = session.store.digests, manifest.stages["ingest"].settings["ingest.shard_rows"]
    try:
        dataset, outline = read_outlined(settings, rows, session.store, digests)
    except KidpipeError as error:
        _LOG.debug("the data set can't be compared with what was ingested: %s", error.what)
        return
    now = [part.content for part in split_parts(dataset, outline, digests)]
    before = [part.content for part in manifest.parts]
    if [part["source"] for part in now] != [part["source"] for part in before]:
        _refuse_other_examples(session, manifest, dataset)
        _LOG.warning("the data set differs in evidence, ids or order from what was ingested (kidpipe plan --why)")
    elif [part["databases"] for part in now] != [part["databases"] for part in before]:
        _LOG.warning("databases of the data set have changed since they were ingested (kidpipe plan --why)")


def _refuse_other_examples(session: Session, manifest: Manifest, dataset: DataSet) -> None:
    """Compare by what an example says: its id and its place are another version's choice."""
    there: Counter[tuple[str, str, str]] = Counter()
    for file in manifest.files("ingest"):
        table = pq.read_table(session.store.root / file, columns=["db_id", "question", "gold_sql"])
        there.update(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    here = Counter((example.db_id, example.question, example.gold_sql) for example in dataset.examples)
    new, gone = here - there, there - here
    if new or gone:
        question = next(iter(new or gone))[1]
        raise _other(
            manifest,
            f"the data set holds other examples than the shards: {new.total()} new, {gone.total()} gone, such as {question!r}",
            f"data.path = {session.config.data.path}",
        )


def _short(identity: str) -> str:
    """An identity as people compare it by eye."""
    kind, _, rest = identity.partition(":")
    return identity if kind == "hub" else f"{kind}:{rest[:12]}"


def _other(manifest: Manifest, what: str, where: str) -> KidpipeError:
    short = manifest.digest[:12]
    return KidpipeError(
        what,
        where=f"{where}; manifest {short}",
        fix=f"kidpipe build-imperfect builds what changed (kidpipe plan --why says what); put the setting back; or train on the "
        f"shards as they are: kidpipe train --manifest {short}",
    )
