"""`kidpipe eval-compare`: two evaluations of the same examples in, whether they differ and on which rows out."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.comparison import ComparedRuns, compare_runs, difference_table, flip_lines
from eval.evaluate import SUMMARY_FILE, VERDICTS_FILE, sandbox_limits
from eval.report import read_verdicts
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.errors import KidpipeError
from kidcore.finite import finite
from kidcore.sql.text_files import read_json
from kidpipe.commands.session import Session
from kidpipe.commands.shown_tables import print_table

_JUDGING = ("keep_distinct", "mend_operators", "max_steps", "exact_match")


def compare_evaluations(session: Session, first: str, second: str, *, rows: int, as_json: bool) -> dict[str, object]:
    """Paired difference by metric with interval and p, then the first `rows` rows that flipped."""
    folders = [find_evaluation(session, name) for name in (first, second)]
    same = folders[0].name == folders[1].name
    ours, theirs = (first, second) if same else (folders[0].name, folders[1].name)
    runs = compare_runs(*(read_verdicts(folder / VERDICTS_FILE) for folder in folders))
    changed = _changed_settings(*folders)
    summary = _summary(runs, folders, changed)
    if as_json:
        session.print_json(summary)
        return summary
    if changed:
        said = "; ".join(f"{name}: {one} and {other}" for name, (one, other) in changed.items())
        session.errors.print(f"the two were judged differently ({said}): the difference is not the models' alone", soft_wrap=True)
    print_table(session.console, difference_table(runs, ours, theirs))
    better = sum(bool(other.ex_bag) for _one, other in runs.flips)
    session.console.print(
        f"ex_bag flipped on {len(runs.flips)} rows: {theirs} loses {len(runs.flips) - better} and wins {better}"
    )
    for line in flip_lines(runs, ours, theirs, rows) if rows else []:
        session.console.print(line)
    return summary


def find_evaluation(session: Session, name: str) -> Path:
    """The folder that `name` means: one under eval/ in the store, or any folder with verdicts."""
    root = session.store.root / "eval"
    for folder in (root / name, Path(name)):
        if (folder / VERDICTS_FILE).is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in root.glob(f"*/{VERDICTS_FILE}"))) or "none"
    raise KidpipeError(f"there is no evaluation {name}", where=str(root), fix=f"kidpipe eval; evaluations there: {known}")


def _changed_settings(first: Path, second: Path) -> dict[str, tuple[object, object]]:
    """What differs in how the two were judged."""
    ours, theirs = (_how(folder) for folder in (first, second))
    changed = {name: (ours[name], theirs.get(name)) for name in ours if ours[name] != theirs.get(name)}
    if len({Path(str(suite)).resolve() for suite in changed.get("suite", ())}) == 1:
        del changed["suite"]  # one folder, written in two ways
    return changed


def _how(folder: Path) -> dict[str, object]:
    """The settings that decide verdicts; a summary names those that are not the default."""
    path = folder / SUMMARY_FILE
    summary = read_json(path) if path.is_file() else {}
    settings = EvalSettings().model_dump(include=set(_JUDGING)) | summary.get("settings", {})
    limits = sandbox_limits(SandboxSettings()) | summary.get("sandbox", {})
    chosen = {name: settings[name] for name in _JUDGING} | {f"sandbox.{name}": value for name, value in limits.items()}
    return chosen | {"suite": summary.get("suite")}


def _summary(runs: ComparedRuns, folders: list[Path], changed: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    flips = [
        {
            "example_id": one.example_id,
            "db_id": one.db_id,
            "question": one.question,
            "gold_sql": one.gold_sql,
            "first": {"kind": one.kind.value, "prediction": one.prediction, "message": one.message},
            "second": {"kind": other.kind.value, "prediction": other.prediction, "message": other.message},
        }
        for one, other in runs.flips
    ]
    summary: dict[str, Any] = finite(
        {
            "first": str(folders[0]),
            "second": str(folders[1]),
            "changed_settings": changed,
            "differences": [asdict(difference) for difference in runs.differences],
            "flips": flips,
        }
    )
    return summary
