"""Training with a teacher behind a URL: asked during training where the method asks, and known again where it is not."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kidcore.models.backends.transformers import TransformersBackend
from tests.kidpipe.commands.running import Cli
from tests.kidpipe.commands.test_bad_input import assert_said
from tests.pipeline.test_change_matrix import other_model
from tests.serving import ModelServer, hang_up, status

pytestmark = pytest.mark.slow(seconds=6)

SMALL: dict[str, object] = {
    "data.limit": 20,
    "ingest.shard_rows": 10,
    "mask.views": 1,
    "score.top_k": 8,
    "train.max_steps": 2,
    "train.batch_size": 4,
    "train.holdout": 0.2,
    "train.rollout_tokens": 6,
    "train.oracle_end": 0.01,
}


@pytest.fixture
def server(tiny_model: Path) -> Iterator[ModelServer]:
    server = ModelServer(tiny_model)
    yield server
    server.stop()


@pytest.fixture
def served(cli: Cli, server: ModelServer, tiny_model: Path, tmp_path: Path) -> dict[str, object]:
    """What names the server as the teacher; the student has other weights."""
    cli.settings.update(SMALL | {"train.student": str(other_model(tiny_model, tmp_path / "student"))})
    return {"teacher__model": server.url, "teacher__tokenizer": str(tiny_model), "engine__server_patience_s": 20}


def test_an_online_method_learns_the_same_of_a_server(
    cli: Cli, server: ModelServer, served: dict[str, object], tmp_path: Path
) -> None:
    changes: dict[str, object] = {"train__method": "kid-online", "predict__fill": "verify"}  # asked for two things
    logs = []
    teachers: dict[str, dict[str, object]] = {"own": {}, "served": served}
    for name, teacher in teachers.items():
        if teacher:
            server.troubles.extend([status(503), hang_up])
        done = cli("train", "--name", name, "--json", **changes, **teacher)
        assert done.code == 0, done.err
        lines = (tmp_path / "artifacts" / "runs" / name / "log.jsonl").read_text().splitlines()
        logs.append([line["loss"] for line in map(json.loads, lines) if line["kind"] == "step"])
    assert len(logs[0]) == 2
    np.testing.assert_allclose(logs[1], logs[0], rtol=1e-3, atol=1e-5)
    identity = json.loads((tmp_path / "artifacts" / "runs" / "served" / "run.json").read_text())
    assert str(identity["online"]["teacher"]).startswith("served:teacher@")
    assert "nothing to do" in cli("train", "--name", "served", **changes, **served).out
    server.max_logprobs = 5
    assert_said(cli("train", **changes, **served), "K = ", server.url, "--max-logprobs")


def test_shards_of_another_model_than_the_servers_are_refused(
    cli: Cli, server: ModelServer, served: dict[str, object], tmp_path: Path
) -> None:
    assert cli("build-imperfect", **served).code == 0
    asked = server.kinds.total()
    assert cli("train", "--method", "fkd", **served).code == 0
    assert 0 < server.kinds.total() - asked < 5, "it is asked who it is, once"
    own = server.engine
    server.engine = TransformersBackend(
        tmp_path / "student", dtype="float32", device="cpu", batch_tokens=4096, max_length=512, verbose=False
    )
    refused = cli("train", "--method", "kid", **served)
    assert refused.code == 1
    for said in ("error: the shards were made by another teacher", f"teacher.model = {server.url}", "--manifest"):
        assert said in refused.err
    server.engine = own
    server.stop()
    done = cli("train", "--method", "kid", **served)
    server.start()
    assert done.code == 0, done.err
    assert "can't be compared with the one that made the shards: the server cannot be reached" in done.err
