"""`kidpipe push`: a student, or the shards of the latest build, in; a repository on the Hugging Face Hub with its card out."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from eval.evaluate import SUMMARY_FILE
from kidcore.errors import KidpipeError, first_line
from kidcore.models.sources import resolve
from kidcore.store.column_descriptions import COLUMNS
from kidcore.store.manifest import HEAD, LATEST, Manifest
from kidcore.store.prompts import prompt_folder
from kidcore.store.stages import STAGE_TABLE
from kidpipe.commands.judged import is_of_place, is_of_weights
from kidpipe.commands.session import Session, show_bytes
from kidpipe.commands.which_model import find_model

_LOG = logging.getLogger(__name__)
_CARD = "README.md"
_SCORES = ("ex_bag", "ts_bag", "ex_set", "exact_set_match", "soft_f1", "r_ves")
_ABOUT_DATA = """---
tags: [text-to-sql, knowledge-distillation, kidpipe]
configs:
{configs}
---

# Imperfect text-to-SQL data, made with kidpipe

Gold SQL with holes that a model filled, and what the teacher thinks of each token of the result. A stage of the build is a
configuration: `load_dataset("{repository}", "score")`. `example_id` joins them, `view` numbers the corruptions.

| | |
|---|---|
{rows}

| column | |
|---|---|
{columns}

The folder is a store of kidpipe: students are trained on it without the teacher.

```bash
hf download {repository} --repo-type dataset --local-dir artifacts
kidpipe train --student MODEL
```
"""

Files = dict[str, Path | bytes]
"""By its path in the repository, what a file holds or where it lies."""


def push(session: Session, repository: str, model: str, *, data: bool, public: bool, as_json: bool) -> dict[str, Any]:
    """Upload the best student of a run with its model card, or with `data` the latest build as a data set, in one commit.

    Raises:
        KidpipeError: nobody is logged in, nothing is there to upload, or the Hub refuses.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise KidpipeError(f"not a repository's name: {repository}", fix="name it OWNER/NAME")
    if data and model:
        raise KidpipeError("--data uploads the shards of the latest build, not a model", fix=f"leave {model} or --data out")
    token = get_token()
    if not token:
        raise KidpipeError("nobody is logged in to the Hugging Face Hub", fix="hf auth login, or set HF_TOKEN")
    files = _of_build(session, repository) if data else _of_student(session, find_model(session, model), repository)
    kind = "dataset" if data else "model"
    url = _upload(repository, kind, files, token, public=public)
    size = sum(x.stat().st_size if isinstance(x, Path) else len(x) for x in files.values())
    summary = {"repository": repository, "kind": kind, "url": url, "files": len(files), "bytes": size, "public": public}
    if as_json:
        session.print_json(summary)
    else:
        seen = "for all to see" if public else "private: --public shows it to all"
        session.console.print(f"pushed      {len(files)} files, {show_bytes(size)}; {seen}")
        session.console.print(f"{kind:<11} {url}", soft_wrap=True)
    return summary


def _upload(repository: str, kind: str, files: Files, token: str, *, public: bool) -> str:
    """Make the repository where it is not there, and put all files into one commit; its address."""
    api = HfApi(token=token)
    operations = [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content)) for path, content in files.items()
    ]
    try:
        # One that exists stays as visible as it is.
        url = api.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        api.create_commit(repository, operations, commit_message=f"Upload {kind} made with kidpipe", repo_type=kind)
    except (HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError, RuntimeError) as error:
        raise KidpipeError(
            f"the Hub refuses: {first_line(error)}",
            where=repository,
            fix="check that the token may write there (hf auth whoami), then push again: what arrived is not sent twice",
        ) from error
    return str(url)


def _of_student(session: Session, folder: str, repository: str) -> Files:
    """The files of a saved student; its card carries the scores of its evaluations."""
    best = Path(folder)
    if not best.is_dir():
        raise KidpipeError(f"{folder} is no run and no folder here", fix="kidpipe push OWNER/NAME RUN")
    files: Files = {str(path.relative_to(best)): path for path in sorted(best.rglob("*")) if path.is_file()}
    card = (best / _CARD).read_text(encoding="utf-8") if _CARD in files else "---\ntags: [text-to-sql, kidpipe]\n---\n"
    return files | {_CARD: _with_scores(card, _evaluations(session, best), repository).encode()}


def _evaluations(session: Session, best: Path) -> dict[str, dict[str, Any]]:
    """Summaries of the evaluations that judged this student, by name; not those of weights that lay there before."""
    found, root = {}, session.store.root
    try:
        identity = resolve(str(best), digests=session.store.digests).identity
    except KidpipeError as error:
        _LOG.debug("the evaluations of %s are told by its place: %s", best, error.what)
        identity = ""
    for path in sorted((root / "eval").glob(f"*/{SUMMARY_FILE}")):
        summary = session.store.read_json(str(path.relative_to(root)))
        if not (isinstance(summary, dict) and summary.get("model")):
            continue
        is_here, is_it = is_of_place(summary, best, root), is_of_weights(summary, identity)
        if is_it or (is_it is None and is_here):
            found[path.parent.name] = summary
        elif is_here:
            _LOG.warning("evaluation %s is of other weights that lay there before: it is left out of the card", path.parent.name)
    return found


def _with_scores(card: str, evaluations: Mapping[str, Mapping[str, Any]], repository: str) -> str:
    """The card with a table of scores for people, and the Hub's own form of them above."""
    if not evaluations:
        return card + "\nIt has not been evaluated.\n"
    lines = [
        "",
        "## Execution accuracy",
        "",
        "| evaluation | questions | metric | score | 95% interval |",
        "|---|---|---|---|---|",
    ]
    results = []
    for name, summary in evaluations.items():
        split, data = summary.get("split") or "dev", Path(summary.get("data") or "data").name
        for metric in _SCORES:
            score = (summary["metrics"].get(metric) or {}).get("all")
            if not score or score.get("value") is None:
                continue
            low, high = (f"{100 * score[side]:.1f}" if score.get(side) is not None else "?" for side in ("low", "high"))
            value = round(100 * score["value"], 1)
            lines.append(f"| {name} ({data}, {split}) | {score['num_rows']} | {metric} | {value} | {low} to {high} |")
            results.append((data, split, metric, value))
    index = ["model-index:", f"- name: {repository.partition('/')[2]}", "  results:"]
    for data, split, metric, value in results:
        index += ["  - task: {type: text-generation, name: text-to-SQL}"]
        index += [f'    dataset: {{name: "{data}", type: "{data}", split: "{split}"}}']
        index += [f"    metrics: [{{type: {metric}, value: {value}}}]"]
    head, end, rest = card.removeprefix("---\n").partition("\n---\n")
    if not (card.startswith("---\n") and end):
        # A model's own card may be without front matter, and a line in it that looks like its end is a rule.
        head, rest = "", card
    return f"---\n{head}\n" + "\n".join(index) + f"\n---\n{rest}" + "\n".join(lines) + "\n"


def _of_build(session: Session, repository: str) -> Files:
    """Every shard of the latest manifest and what a trainer needs beside them: a store of its own."""
    root, manifest = session.store.root, session.manifest()
    named = [*manifest.files(*manifest.stages), LATEST, HEAD, f"manifests/{manifest.digest}.json"]
    folders = [root / "tokenizers" / manifest.facts.tokenizer, prompt_folder(session.store, manifest.stages["ingest"].settings)]
    paths = [*(root / name for name in named), *(path for folder in folders for path in sorted(folder.rglob("*")))]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise KidpipeError(
            f"{len(missing)} files of the build are not there", where=str(missing[0]), fix="kidpipe build-imperfect"
        )
    files: Files = {path.relative_to(root).as_posix(): path for path in paths if path.is_file()}
    return files | {_CARD: _data_card(manifest, repository).encode()}


def _data_card(manifest: Manifest, repository: str) -> str:
    configs = "\n".join(f'- config_name: {stage}\n  data_files: "{stage}/*.parquet"' for stage in manifest.stages)
    rows: dict[str, Any] = {
        "teacher": manifest.facts.teacher.identity if manifest.facts.teacher else "none",
        "examples": sum(part.rows for part in manifest.parts),
        "views": manifest.facts.views,
        "build": manifest.digest,
    }
    for record in manifest.stages.values():
        rows |= {name: value for name, value in record.settings.items() if isinstance(value, (str, int, float))}
    table = "\n".join(f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in rows.items())
    held = dict.fromkeys(column.split()[0] for stage in manifest.stages for column in STAGE_TABLE[stage].columns)
    columns = "\n".join(f"| {name} | {COLUMNS[name]} |" for name in held)
    return _ABOUT_DATA.format(configs=configs, repository=repository, rows=table, columns=columns)
