"""`kidpipe eval`: a model or predictions made elsewhere in, execution accuracy on the held-out questions out."""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from eval.answers import ANSWERS_FILE, KeptAnswers
from eval.databases import Databases
from eval.evaluate import SUMMARY_FILE, VERDICTS_FILE, Evaluation
from eval.evaluate import judge_predictions as judge
from eval.generate import Predictions, generate_predictions
from eval.metrics.vote import vote
from eval.names import read_tables_json
from eval.prediction_files import read_predictions
from eval.report import tables, unjudged_lines
from kidcore.atomic import require_writable
from kidcore.config.config import EvalSettings
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Backend, Sampling
from kidcore.models.backends.select import open_backend
from kidcore.models.sources import ModelSource, resolve
from kidcore.progress import WorkProgress
from kidcore.sql.answers import read_answer
from kidcore.sql.availability import lacking_databases
from kidcore.sql.datasets import DataSet, Example, Split, read
from kidcore.sql.schema_text import read_schema
from kidcore.sql.text_files import read_json
from kidpipe.commands.exposure import exposure, find_teacher, show
from kidpipe.commands.judged import IDENTITY
from kidpipe.commands.next_command import after_evaluation
from kidpipe.commands.prompts import builder_of_model
from kidpipe.commands.session import Session
from kidpipe.commands.shown_tables import print_table
from kidpipe.commands.which_model import find_model, name_of, run_or_model

_LOG = logging.getLogger(__name__)
_TABLES_FILES = ("tables.json", "dev_tables.json", "dev/dev_tables.json")
"""Where Spider and BIRD keep their schemas, whose key links exact set match goes by."""
_GENERATING = ("dtype", "max_new_tokens", "samples", "sample_temperature", "sample_seed")
_NOT_GENERATED = {name: EvalSettings.model_fields[name].default for name in _GENERATING}


def evaluate(
    session: Session,
    model: str,
    *,
    name: str,
    as_json: bool,
    quiet: bool = False,
    predictions_file: Path | None = None,
    suite: Path | None = None,
    with_exposure: bool = False,
    split: str = "dev",
    strict: bool = False,
) -> dict[str, Any]:
    """Generate or read, execute, compare; verdicts and summary go to eval/<name> in the store.

    Raises:
        KidpipeError: before anything expensive, for what can't be judged at all; with `strict`, after all is written and shown,
            where any row could not be judged.
    """
    config = session.config
    # How SQL would be generated is no part of how a file of it is judged.
    settings = config.eval.model_copy(update=_NOT_GENERATED) if predictions_file else config.eval
    dataset = read(config.data, _split(split))
    teacher = find_teacher(session) if with_exposure else None
    databases = _databases(dataset, Path(config.data.path).expanduser() if settings.exact_match else None, suite)
    origin, default_name = _origin(session, model, predictions_file)
    out = session.folder_of("eval", name or _default_name(default_name, split, settings.limit))
    _keep_whole(out, settings.limit)
    _require_databases(dataset, settings.limit)
    require_writable(out)
    with session.progress() as bar:
        if predictions_file:
            # They are named after places in the whole file, of which data.sample leaves some.
            whole = read(config.data.model_copy(update={"sample": 0}), _split(split)) if config.data.sample else dataset
            predictions = _read(predictions_file, whole, dataset.examples[: settings.limit or None])
            _tell_of_others(out, predictions_file, settings)
        else:
            _tell_of_others(out, Path(origin["model"]), settings)
            source = resolve(origin["model"], digests=session.store.digests)
            origin[IDENTITY] = source.identity
            predictions = _generate(session, source, dataset, out, bar)
        notes = origin | {"data": config.data.path, "split": split, "suite": str(suite) if suite else None}
        if predictions.lost_tables:
            lost = sum(bool(tables) for tables in predictions.lost_tables.values())
            notes["cut_prompts"] = {"examples": len(predictions.lost_tables), "without_a_table_of_gold": lost}
        if teacher is not None:
            notes |= exposure(session, teacher, origin["model"], predictions, dataset)
        result = judge(
            dataset.examples,
            predictions.sql,
            databases,
            settings,
            out,
            reasons=predictions.reasons,
            notes=notes,
            parts=bar.ticker,
            said=predictions.said,
            sandbox=config.sandbox,
        )
    ask = after_evaluation(session, run_or_model(session, origin["model"])) if "model" in origin and not quiet else ""
    if as_json:
        session.print_json(result.summary | {"folder": str(out)} | ({"next": ask} if ask else {}))
    elif not quiet:
        _show(session, result)
        if ask and not session.is_step:
            session.console.print(f"next        {ask}", soft_wrap=True)
    if strict:
        _require_all_judged(result.summary)
    return result.summary | {"folder": str(out)}


def _require_all_judged(summary: dict[str, Any]) -> None:
    fix = "mend them, or leave --strict out: the rates say of how many rows they are"
    total = summary["examples"]
    if unjudged := summary["unjudged"]["rows"]:
        said = f"{unjudged} of {total} rows could not be judged, and --strict is given"
        raise KidpipeError(said, where=", ".join(summary["unjudged"]["examples"]), fix=fix)
    if untested := summary.get("suite_untested", {}).get("rows"):
        said = f"{untested} of {total} rows could not be tested by the suite, and --strict is given"
        raise KidpipeError(said, where=", ".join(summary["suite_untested"]["databases"]), fix=fix)


def _default_name(name: str, split: str, limit: int) -> str:
    """A part of the data has a name of its own, so that it never takes the place of the whole."""
    return name + ("" if split == "dev" else f"-{split}") + (f"-first-{limit}" if limit else "")


def _keep_whole(out: Path, limit: int) -> None:
    """Refuse to put an evaluation of the first few examples in the place of one of all."""
    if limit and (out / SUMMARY_FILE).is_file():
        summary = read_json(out / SUMMARY_FILE)
        if not summary.get("limit") and summary["examples"] > limit:
            raise KidpipeError(
                f"there is an evaluation of all {summary['examples']} examples by this name",
                where=str(out),
                fix="give another --name",
            )


def _tell_of_others(out: Path, judged: Path, settings: EvalSettings) -> None:
    """Say where the judgement of a file or model takes the place of another's: two folders may both have a predictions.sql.

    Of a model that is judged by other answers, too: greedy ones and votes of several are two evaluations.
    """
    before = read_json(out / SUMMARY_FILE) if (out / SUMMARY_FILE).is_file() else {}
    other = before.get("model") or before.get("predictions")
    if not other:
        return
    now, then = settings.model_dump(mode="json"), _NOT_GENERATED | before.get("settings", {})
    asked = [name for name in _GENERATING if settings.samples > 1 or then["samples"] > 1 or not name.startswith("sample_")]
    changed = ", ".join(f"{name} {then[name]}" for name in asked if then[name] != now[name])
    if Path(other).absolute() != judged.absolute():
        _LOG.warning("this takes the place of the evaluation of %s; --name keeps both", other)
    elif changed:
        _LOG.warning("this takes the place of the evaluation of %s with %s; --name keeps both", other, changed)


def _require_databases(dataset: DataSet, limit: int) -> None:
    """Say before the first expensive second which databases are not there; all of them missing is an error."""
    lacking = lacking_databases(dataset, dataset.examples[:limit] if limit else dataset.examples)
    if lacking:
        lost = sum(lacking.examples.values())
        _LOG.warning("%s: %d of %d rows can't be judged", lacking, lost, lacking.num_examples)


_SPLITS: dict[str, Split] = {"dev": "dev", "train": "train"}


def _split(name: str) -> Split:
    if name in _SPLITS:
        return _SPLITS[name]
    raise KidpipeError(f"there is no split {name}", where="--split", fix="--split dev, or --split train")


def _show(session: Session, result: "Evaluation") -> None:

    summary = result.summary
    source = summary.get("model") or summary["predictions"]
    for table in tables(summary, f"{source} on {len(result.verdicts)} questions"):
        print_table(session.console, table)
    if cut := summary.get("cut_prompts"):
        lost = cut["without_a_table_of_gold"]
        session.console.print(
            f"prompts     {cut['examples']} written with fewer tables, {lost} of them without one that gold names"
        )
    for line in unjudged_lines(summary):
        session.console.print(line, soft_wrap=True)
    if "exaccerr" in summary:
        session.console.print(f"ExAccErr    {show(summary)}")
    session.console.print(f"verdicts    {result.folder / VERDICTS_FILE}")


def _databases(dataset: DataSet, data: Path | None, suite: Path | None) -> "Databases":
    """Where to execute; `data` is the folder whose schemas exact set match goes by, None where it is not asked for."""
    schemas = next((data / name for name in _TABLES_FILES if (data / name).is_file()), None) if data else None
    databases = Databases(dataset.database, suite, read_tables_json(schemas) if schemas else {})
    databases.require_suite({example.db_id for example in dataset.examples})
    return databases


def _origin(session: Session, model: str, predictions: Path | None) -> tuple[dict[str, Any], str]:
    """What the predictions come from, for the summary, and what the result is called unless it is given a name."""
    if predictions is None:
        folder = find_model(session, model)
        return {"model": folder}, name_of(session, folder)
    if model:
        raise KidpipeError(
            f"both a model ({model}) and a file of predictions ({predictions}) are named", fix="leave one of them out"
        )
    return {"predictions": str(predictions)}, predictions.stem


def _read(path: Path, dataset: DataSet, judged: Sequence[Example]) -> "Predictions":
    """The predictions of the examples that are judged, from a file that may have them for all of the data set."""

    @cache
    def tables(db_id: str) -> frozenset[str] | None:
        try:
            return frozenset(table.name.lower() for table in read_schema(dataset.database(db_id), db_id).tables)
        except KidpipeError:
            return None  # its golds fail too, which is what gets reported

    @cache
    def dialect(db_id: str) -> str:
        return dataset.database(db_id).dialect

    first = len(judged) if list(judged) == list(dataset.examples[: len(judged)]) else 0
    found = read_predictions(path, dataset.examples, tables, dialect, first)
    said = {example.example_id: found[example.example_id] for example in judged if example.example_id in found}
    homes = {example.example_id: example.db_id for example in judged}
    made = Predictions({name: read_answer(text, dialect(homes[name])) for name, text in said.items()}, said=said)
    total = len(judged)
    if lacking := total - len(said):
        _LOG.warning("%s has no prediction for %d of %d examples; they count as missing", path, lacking, total)
    if empty := sum(not sql for sql in made.sql.values()):
        _LOG.warning("%s has no SQL in the predictions of %d of %d examples; they count as missing", path, empty, total)
    if changed := sum(sql not in ("", said[name].strip()) for name, sql in made.sql.items()):
        _LOG.info("SQL was taken out of the text around it in %d of %d predictions", changed, len(said))
    if made.sql and all(made.sql.get(e.example_id, "").rstrip("; ") == e.gold_sql for e in judged):
        _LOG.warning("every prediction in %s is its example's gold to the letter: is it a file of golds?", path)
    return made


def _generate(session: Session, source: ModelSource, dataset: DataSet, out: Path, bar: WorkProgress) -> "Predictions":
    """What the model answers, and answered before for the evaluation in `out`."""
    builder, config = builder_of_model(session, source.path), session.config
    examples = dataset.examples[: config.eval.limit] if config.eval.limit else dataset.examples
    longest = builder.definition.max_prompt_tokens + config.eval.max_new_tokens
    number = config.eval.samples
    sampling = Sampling(config.eval.sample_temperature, config.eval.sample_seed, number) if number > 1 else None

    def start() -> Backend:
        with bar.starting(f"the engine with {run_or_model(session, source.name)}"):
            return open_backend(
                source.path, config.engine, config.eval.dtype, max_top_k=1, max_length=longest, verbose=session.verbose
            )

    made_by = {"model": source.identity, "dtype": config.eval.dtype, "longest": longest}
    answers = KeptAnswers(out / ANSWERS_FILE, made_by, start)
    try:
        tick = bar.ticker("generate")
        made = generate_predictions(answers, builder, examples, dataset.database, config.eval.max_new_tokens, tick, sampling)
    finally:
        answers.close()
    if answers.reused:
        _LOG.info("%d answers were there already, by %s: %s", answers.reused, answers.engine, out / ANSWERS_FILE)
    if sampling:
        voted = vote(examples, made.samples, dataset.database, config.eval, config.sandbox, bar.ticker("vote"))
        made.choose(voted)
    return made
