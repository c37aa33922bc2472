"""`ingest.chat = auto` from the command line: what is said, and that the other commands take what the build decided."""

import json

from tests.kidpipe.commands.running import Cli


def test_every_command_takes_what_came_out(cli: Cli, tiny_model: object) -> None:
    cli.settings["ingest.chat"] = "auto"
    said = "prompts     without the chat template: the tokenizer has none"
    assert said in cli("plan", "--until", "ingest").out
    assert said in cli("build-imperfect", "--until", "ingest").out
    assert json.loads(cli("plan", "--until", "ingest", "--json").out)["chat"]["is_decided"] is True
    assert cli("plan", "--check", "--until", "ingest", ingest__chat=False).code == 0, "nothing is stale"
    trained = cli("train", "--method", "sft", "--name", "run", train__max_steps=1, train__batch_size=4)
    assert (trained.code, "other settings" in trained.err) == (0, False), trained.err
    small: dict[str, object] = {"eval__limit": 2, "eval__max_new_tokens": 4, "sandbox__workers": 1}
    for model in ("run", str(tiny_model)):
        assert cli("eval", model, **small).code == 0
    assert cli("gc", "--json").code == 0
    refused = cli("plan", ingest__chat="maybe")
    assert (refused.code, "ingest.chat = 'maybe'" in refused.err) == (1, True)
