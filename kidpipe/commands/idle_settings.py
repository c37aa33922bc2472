"""A session in; a line for each setting out that was typed for this command and that its method or predictor ignores."""

import logging

from kidcore.method.methods import looks_at
from kidpipe.commands.session import Session

_LOG = logging.getLogger(__name__)


def warn_of_idle(session: Session, *, trains: bool) -> None:
    """Name the flags of no effect on a run, or else on a build. A file may well hold settings for another method."""
    if session.is_step or session.is_silent:
        return
    train, predict = session.config.train, session.config.predict
    typed = {name for name, origin in session.loaded.origins.items() if origin == "flag"}
    if trains:
        for field in train.identity():
            if f"train.{field}" in typed and not looks_at(train.method, field):
                _LOG.warning("train.%s has no effect on method %s", field, train.method)
    elif "predict.student" in typed and predict.student and not predict.is_students:
        _LOG.warning("predict.student has no effect: the teacher fills the holes (--predictor student lets it)")
