"""Settings that were typed and change nothing."""

from dataclasses import replace

import pytest

from kidpipe.commands.idle_settings import warn_of_idle
from kidpipe.commands.session import open_session

FILLS = "predict.student has no effect: the teacher fills the holes (--predictor student lets it)\n"


@pytest.mark.parametrize(
    ("settings", "trains", "said"),
    [
        (["train.method=sft", "train.divergence=reverse_kl"], True, "train.divergence has no effect on method sft\n"),
        (["train.method=kid", "train.answers=correct"], True, "train.answers has no effect on method kid\n"),
        (["train.method=kid", "train.divergence=reverse_kl", "train.lora_rank=4"], True, ""),
        (["train.method=sft", "train.divergence=auto"], True, ""),
        (
            ["predict.student=x"],
            False,
            FILLS,
        ),
        (["predict.student=x", "predict.predictor=student"], False, ""),
        (["predict.student=x", "predict.fill=verify"], False, ""),
    ],
)
def test_what_was_typed_and_changes_nothing_is_said(
    settings: list[str], trains: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    session = open_session(None, settings, {}, use_file=False)
    warn_of_idle(session, trains=trains)
    assert capsys.readouterr().err == said
    warn_of_idle(replace(session, is_step=True), trains=trains)
    assert capsys.readouterr().err == "", "steps of a command are not what a person typed"
