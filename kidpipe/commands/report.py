"""`kidpipe report`: what lies in the store in, one self-contained HTML page out."""

from collections.abc import Sequence
from pathlib import Path

from eval.evaluate import VERDICTS_FILE
from kidcore.errors import KidpipeError
from kidcore.models.tokenizers import load_tokenizer
from kidcore.store.manifest import read_manifest
from kidpipe.commands.compare_evaluations import find_evaluation
from kidpipe.commands.session import Session, show_bytes
from kidpipe.report.build import Decode, build_section
from kidpipe.report.evaluation import comparison_section, evaluation_section
from kidpipe.report.page import Section, render_page, write_page
from kidpipe.report.study import study_section
from kidpipe.report.train import train_section

KINDS = ("all", "build", "train", "eval", "compare")


def report(session: Session, kind: str, names: Sequence[str], out: Path | None, *, as_json: bool) -> Path:
    """Write the page of one kind, or of all there is.

    Args:
        names: runs (train), evaluations (eval), two evaluations or a comparison (compare); none = all.
        out: the file; None = report.html, or report-<kind>.html, in the store.
    """
    sections = _sections(session, kind, names)
    root = session.store.root
    path = out or root / ("report.html" if kind == "all" else f"report-{kind}.html")
    html = render_page(f"kidpipe: {root.resolve().name}", f"Store {root}.", sections)
    write_page(path, html)
    if as_json:
        session.print_json({"report": str(path), "bytes": path.stat().st_size, "sections": [s.title for s in sections]})
    else:
        session.console.print(f"report      {path} ({show_bytes(path.stat().st_size)}): open it in a browser")
    return path


def _sections(session: Session, kind: str, names: Sequence[str]) -> list[Section]:
    if kind not in KINDS:
        raise KidpipeError(f"there is no report {kind}", where="kidpipe report", fix=f"one of {', '.join(KINDS)}")
    if names and kind in ("all", "build"):
        raise KidpipeError(f"{', '.join(names)}: names have no effect on this report", fix="kidpipe report train RUN ...")
    if kind == "build":
        return [_build(session)]
    if kind == "train":
        return [train_section(session.store, [_named_run(session, name) for name in names] or _runs(session))]
    if kind == "eval":
        return [evaluation_section([find_evaluation(session, name) for name in names] or _evaluations(session))]
    if kind == "compare":
        return _comparisons(session, names)
    sections = [_build(session)] if read_manifest(session.store) else []
    sections += [train_section(session.store, _runs(session)), evaluation_section(_evaluations(session))]
    return sections + [study_section(path.parent.name, path) for path in _studies(session)]


def _build(session: Session) -> Section:
    manifest = session.manifest()
    tokenizer = load_tokenizer(session.store.root / "tokenizers" / manifest.facts.tokenizer)
    texts: dict[int, str] = {}

    def decode(token: int) -> str:
        if token not in texts:
            texts[token] = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return texts[token]

    known: Decode = decode
    return build_section(session.store, manifest, known)


def _comparisons(session: Session, names: Sequence[str]) -> list[Section]:
    studies = {path.parent.name: path for path in _studies(session)}
    if not names:
        if not studies:
            raise KidpipeError(
                "there is no comparison here", where=str(session.store.root), fix="kidpipe compare, or kidpipe report compare A B"
            )
        return [study_section(name, path) for name, path in studies.items()]
    if all(name in studies for name in names):
        return [study_section(name, studies[name]) for name in names]
    if len(names) != 2:
        known = ", ".join(studies) or "none"
        raise KidpipeError(
            f"{', '.join(names)}: neither two evaluations nor comparisons",
            fix=f"kidpipe report compare A B; comparisons: {known}",
        )
    first, second = (find_evaluation(session, name) for name in names)
    return [evaluation_section([first, second]), comparison_section(first, second)]


def _named_run(session: Session, name: str) -> str:
    """The run of this name. Raises KidpipeError where none with a log is there: the page would not show that it is absent."""
    known = _runs(session)
    if name not in known:
        there = ", ".join(sorted(known)) or "none"
        where = str(session.store.root / "runs")
        raise KidpipeError(f"there is no run {name} with a log", where=where, fix=f"kidpipe train; runs there: {there}")
    return name


def _runs(session: Session) -> list[str]:
    """Runs with a log, oldest first: the newest colours are those of the newest runs."""
    logs = sorted((session.store.root / "runs").glob("*/log.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    return [path.parent.name for path in logs]


def _evaluations(session: Session) -> list[Path]:
    found = sorted((session.store.root / "eval").glob(f"*/{VERDICTS_FILE}"), key=lambda path: path.stat().st_mtime_ns)
    return [path.parent for path in found]


def _studies(session: Session) -> list[Path]:
    return sorted((session.store.root / "compare").glob("*/runs.parquet"))
