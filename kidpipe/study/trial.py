"""One run of a comparison, in a process of its own: a cell file in, training, evaluation, and figures of both out.

`python -m kidpipe.study.trial FOLDER` reads FOLDER/cell.json; FOLDER/training.json and FOLDER/result.json appear.
The process ends itself when its standard input closes, so that no run outlives the comparison that started it.
"""

import json
import os
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from kidcore.atomic import read_records
from kidcore.config.config import Config
from kidcore.config.config_load import Loaded
from kidcore.config.processes import peak_memory_mib
from kidcore.errors import KidpipeError
from kidcore.locks import waiting_for
from kidcore.store.store import Store
from kidpipe.commands.evaluate import evaluate
from kidpipe.commands.session import Session, quieten
from kidpipe.commands.train import train

CELL, TRAINING, RESULT = "cell.json", "training.json", "result.json"


def run_trial(folder: Path) -> None:
    """Train unless that is done, evaluate, and write the result last.

    Comparisons of other names may have this run too, or another that judges its student: they take turns.
    """
    cell, files = json.loads((folder / CELL).read_text(encoding="utf-8")), Store(folder)
    with waiting_for(folder.parent / f".{cell['run']}.lock"):
        if files.read_json(RESULT) is None:
            _begin_log()
            _train_and_judge(cell, files)


def _begin_log() -> None:
    """Drop what the log holds of an earlier try. Not before it is our turn: somebody else may be writing there."""
    with suppress(OSError):  # a terminal or a pipe
        os.ftruncate(sys.stdout.fileno(), 0)


def _train_and_judge(cell: dict[str, Any], files: Store) -> None:
    session = Session(Loaded(Config.model_validate(cell["config"]), {}), verbose=False, is_step=True)
    trained = train(session, name=cell["run"], as_json=False, digest=cell["manifest"])
    run = Path(trained["run"])
    if not trained["was_finished"] or files.read_json(TRAINING) is None:
        memory = {} if trained["was_finished"] else _peak_memory()
        files.write_json(TRAINING, {**_training(run, trained), **memory})
    summary = evaluate(session, str(run / cell["checkpoint"]), name=cell["evaluation"], as_json=False, quiet=True)
    files.write_json(RESULT, {**files.read_json(TRAINING), **_scores(summary)})


def _training(run: Path, trained: dict[str, Any]) -> dict[str, Any]:
    figures = {name: trained[name] for name in ("steps", "best_step", "best_nll", "final_nll")}
    return figures | {"train_seconds": trained["seconds"]} | logged_sums(run)


def logged_sums(run: Path) -> dict[str, float]:
    """The sums of what a run's log counts by step: tokens, and seconds of parts of a step."""
    sums: Counter[str] = Counter()
    for record in read_records(run / "log.jsonl"):
        if record.get("kind") == "step":
            sums.update({name: value for name, value in record.items() if name.endswith(("_tokens", "_seconds"))})
    return {name: round(value, 3) for name, value in sums.items()}


def _peak_memory() -> dict[str, float]:
    """MiB of this process up to here, and of its GPU; what evaluation takes later is not in it."""
    memory = {"peak_memory_mib": peak_memory_mib()}
    if torch.cuda.is_available() and (peak_gpu := torch.cuda.max_memory_allocated()):
        memory["peak_gpu_memory_mib"] = round(peak_gpu / 1024**2, 1)
    return memory


def _scores(summary: dict[str, Any]) -> dict[str, Any]:
    scores = {name: metric["all"]["value"] for name, metric in summary["metrics"].items()}
    return {**scores, "valid_sql": summary["valid_sql"], "questions": summary["judged"]}


def _end_with_the_parent() -> None:
    """Read the raw descriptor: a buffered reader that still waits at exit would abort the interpreter."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    _end_with_the_parent()
    quieten(verbose=False)
    try:
        run_trial(Path(sys.argv[1]))
    except KidpipeError as error:
        print(f"error: {error.what}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)  # what is saved has been said


if __name__ == "__main__":
    main()
