"""Lines of a run's log in; the same figures in TensorBoard, Weights & Biases, trackio or MLflow out, through accelerate.

The log stays what counts. A tracker that fails during a run is a warning, never the end of it.
"""

import json
import logging
import math
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from accelerate import tracking
from accelerate.logging import MultiProcessAdapter
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from kidcore.atomic import write_json
from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError, first_line

_LOG = logging.getLogger(__name__)
_FILE = "trackers.json"
"""In the run's folder: the name under which each tracker knows the run, for the next start to continue it."""
_PROJECT = "kidpipe"


class _PlainLogger(MultiProcessAdapter):  # type: ignore[misc]  # the library has no types
    """accelerate's logger, without its question which process this is.

    The answer is a state that sets threads, devices and variables for the whole program; ours has its processes already.
    """

    def log(self, level: int, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.logger.log(level, msg, *args, **kwargs)


tracking.logger = _PlainLogger(logging.getLogger(tracking.__name__), {})


def check_trackers(settings: TrainSettings) -> None:
    """Refuse trackers whose package is not installed."""
    available = {str(name) for name in get_available_trackers()}
    missing = [name for name in settings.report_to if name not in available]
    if missing:
        raise KidpipeError(
            f"train.report_to names what is not installed: {', '.join(missing)}",
            where="train.report_to",
            fix=f"pip install {' '.join(missing)}",
        )


class Trackers:
    """The trackers of one run; without any, all of this does nothing."""

    def __init__(self, settings: TrainSettings, out: Path) -> None:
        self._settings, self._out = settings, out
        self._names = _read_names(out / _FILE)
        self._open: dict[str, Any] = {}
        self._fresh: set[str] = set()
        self._reported: tuple[int, str] = (-1, "")

    def start(self) -> None:
        """Begin, or continue, the run with every tracker.

        Raises:
            KidpipeError: one can't: nobody is logged in, or its server can't be reached.
        """
        for name in self._settings.report_to:
            try:
                with redirect_stdout(sys.stderr):  # trackio talks there, and stdout is for results
                    self._open[name] = self._started(name)
            except Exception as error:  # whatever a tracker's own client raises
                raise KidpipeError(
                    f"{name} does not start: {first_line(error)}",
                    where="train.report_to",
                    fix=f"set {name} up as its documentation says, or leave it out: --set train.report_to=",
                ) from error
            _LOG.info("reporting to %s%s", name, f": tensorboard --logdir {self._out.parent}" if name == "tensorboard" else "")
        if self._open:
            write_json(self._out / _FILE, self._names)

    def _started(self, name: str) -> Any:
        if name not in self._names:
            self._fresh.add(name)
        known = self._names.get(name, uuid.uuid4().hex)
        project = os.environ.get(f"{name.upper()}_PROJECT", _PROJECT)
        label = f"{self._out.name}-{known[:6]}"
        make = LOGGER_TYPE_TO_CLASS[name]
        if name == "tensorboard":
            tracker = make("tensorboard", str(self._out))
        elif name == "wandb":
            tracker = make(project, id=known, name=self._out.name, resume="allow", dir=str(self._out))
        elif name == "trackio":
            # It knows runs by name alone: one that was deleted and is trained again is another.
            tracker = make(project, name=label, resume="allow")
        else:
            tracker = make(project, run_id=self._names.get(name), run_name=label)
        # Only the first process has trackers: nobody is to be asked which one that is.
        tracker.main_process_only = False
        tracker.start()
        self._names[name] = tracker.tracker.info.run_id if name == "mlflow" else known
        if name in self._fresh:
            values = self._settings.model_dump(mode="json", exclude={"report_to"})
            tracker.store_init_configuration({f"train.{key}": value for key, value in values.items()})
        return tracker

    def follow(self, log: Path, kept: int) -> None:
        """Take up the log of a run that is continued: its first `kept` bytes stay, and what follows them will be done again.

        A tracker that joins late gets what is kept; the others have all that was logged, and are told nothing twice.
        """
        if not self._open or not log.exists():
            return
        text = log.read_bytes()
        for line in _lines(text[:kept]):
            self._send({name: self._open[name] for name in self._open if name in self._fresh}, line)
        again = _lines(text[kept:])
        self._reported = max(map(_place, again), default=(-1, ""))

    def log(self, line: Mapping[str, Any]) -> None:
        """Report one line of the log."""
        seen = _place(line) <= self._reported
        self._send({name: x for name, x in self._open.items() if not seen or name in self._fresh}, line)

    def _send(self, trackers: Mapping[str, Any], line: Mapping[str, Any]) -> None:
        for name, tracker in trackers.items():
            try:
                tracker.log(_figures(line), step=line["step"])
            except Exception as error:  # a server that went away must not end a run of days
                _LOG.warning("%s gets no more figures of this run, the log has them: %s", name, error)
                self._open.pop(name)

    def finish(self) -> None:
        """Let the trackers write what they hold."""
        for name, tracker in self._open.items():
            try:
                with redirect_stdout(sys.stderr):
                    tracker.finish()
            except Exception as error:  # as above
                _LOG.warning("%s did not end well: %s", name, error)


@contextmanager
def open_trackers(settings: TrainSettings, out: Path, *, is_first: bool) -> Iterator[Trackers]:
    """The trackers that `settings` name, in the first process; none in the others."""
    trackers = Trackers(settings, out)
    try:
        if is_first:
            trackers.start()
        yield trackers
    finally:
        trackers.finish()


def _read_names(path: Path) -> dict[str, str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return names if isinstance(names, dict) else {}


def _lines(text: bytes) -> list[dict[str, Any]]:
    """The whole lines of a piece of a log; a kill may have left half of one."""
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _place(line: Mapping[str, Any]) -> tuple[int, str]:
    """Where a line stands in its run: the evaluation of a step comes after the step."""
    return line["step"], {"step": "0", "eval": "1"}.get(line["kind"], "2")


def _figures(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line as `train/loss` and `eval/on_gold/nll`; what is no number is no curve."""
    prefix = {"step": "train"}.get(line["kind"], line["kind"])
    flat: dict[str, float] = {}
    for name, value in line.items():
        for key, number in value.items() if isinstance(value, dict) else [("", value)]:
            if isinstance(number, (int, float)) and math.isfinite(number) and name != "step":
                flat["/".join(part for part in (prefix, name, key) if part)] = float(number)
    return flat
