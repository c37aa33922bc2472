"""From the command line: a student's own answers, scored once, and what is trained on them."""

from pathlib import Path

from tests.kidpipe.commands.running import Cli
from tests.pipeline.test_rollout import small  # noqa: F401


def test_opd_builds_what_it_reads_and_other_answers_are_refused(
    small: dict[str, object],  # noqa: F811
    cli: Cli,
    tiny_model: Path,
) -> None:
    cli.settings.clear()
    cli.settings.update(small | {"train.max_steps": 2, "train.batch_size": 4})
    done = cli("train", "--method", "opd", "--json")
    assert done.code == 0, done.err
    assert "rollout_score" in cli("status").out
    assert cli("train", "--method", "kid", "--set", "train.rollout_share=0.5").code == 1, "no filled queries are built yet"
    assert cli("build-imperfect").code == 0
    assert cli("train", "--method", "kid", "--set", "train.rollout_share=0.5").code == 0
    refused = cli("train", "--method", "opd", "--student", str(tiny_model))
    assert refused.code == 1
    assert f"another start: {small['train.student']} (" in refused.err, "it is known by the name it was found as"
