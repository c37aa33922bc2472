"""A student and a build on a stand-in of the Hub: every file arrives, cards say what was measured, and what came down trains."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from transformers import AutoModelForCausalLM

from kidcore.models.sources import resolve
from kidpipe.commands.push import _with_scores
from tests.hub import TOKEN, Hub, stand_in
from tests.kidpipe.commands.running import Cli


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with stand_in() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        # Chunks go to a service of the Hub's own; without it large files go by LFS.
        monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def write(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_a_student_and_its_data_go_up_and_come_down(cli: Cli, hub: Hub, tmp_path: Path) -> None:
    training = {"train__max_steps": 1, "train__batch_size": 4, "train__method": "kid", "train__holdout": 0.3}
    small = {"data__limit": 12, "mask__views": 1, "sandbox__workers": 1}
    assert cli("build-imperfect", **small).code == 0
    assert cli("train", "--name", "one", **small, **training).code == 0
    assert cli("eval", "one", eval__limit=4, eval__max_new_tokens=4, **small).code == 0

    pushed = cli("push", "ada/student", "one", "--json")
    assert pushed.code == 0, pushed.err
    assert json.loads(pushed.out)["url"] == f"{hub.address}/ada/student"
    files = hub.files["model/ada/student"]
    best = tmp_path / "artifacts" / "runs" / "one" / "best"
    assert files.keys() == {path.relative_to(best).as_posix() for path in best.rglob("*") if path.is_file()}
    assert hub.private["model/ada/student"]
    card = ModelCard(files["README.md"].decode())
    summary = json.loads((tmp_path / "artifacts" / "eval" / "one-first-4" / "summary.json").read_text())
    scores = {(x.metric_type, x.metric_value) for x in card.data.eval_results}
    assert ("ex_bag", round(100 * summary["metrics"]["ex_bag"]["all"]["value"], 1)) in scores
    assert "| one-first-4 (" in card.text
    assert summary["model_identity"] == resolve(str(best)).identity
    assert AutoModelForCausalLM.from_pretrained(write(files, tmp_path / "down")).config.model_type == "qwen2"

    assert cli("push", "ada/data", "--data", "--public").code == 0
    files = hub.files["dataset/ada/data"]
    assert not hub.private["dataset/ada/data"]
    head = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert {"config_name": "score", "data_files": "score/*.parquet"} in head["configs"]
    assert hub.commits == 2
    down = write(files, tmp_path / "elsewhere")
    assert json.loads(cli("verify", "--deep", "--json", store__path=down).out)["broken"] == []
    again = json.loads(cli("train", "--name", "two", "--json", store__path=down, **small, **training).out)
    first = json.loads((tmp_path / "artifacts" / "runs" / "one" / "result.json").read_text())
    assert again["final_nll"] == first["final_nll"]


@pytest.mark.parametrize("own", ["# Mine\n\ntext\n\n---\n\nmore\n", "---\nlicense: mit\n---\n# Mine\n\ntext\n\n---\n\nmore\n"])
def test_a_card_of_ones_own_stays_whole_and_has_every_score(own: str) -> None:
    score = {"all": {"value": 0.5, "low": 0.4, "high": 0.6, "num_rows": 10}}
    summary = {"split": "dev", "data": "spider", "metrics": {"ex_bag": score, "ts_bag": score}}
    text = _with_scores(own, {"one": summary}, "ada/student")
    card = ModelCard(text)
    assert [result.metric_type for result in card.data.eval_results] == ["ex_bag", "ts_bag"]
    assert card.text.strip().startswith("# Mine\n\ntext\n\n---\n\nmore\n")
    assert card.data.to_dict().get("license") == ("mit" if "license" in own else None)


def test_scores_stay_with_a_student_whose_store_was_moved(cli: Cli, hub: Hub, tmp_path: Path) -> None:
    root, score = tmp_path / "artifacts", {"all": {"value": 0.5, "low": 0.4, "high": 0.6, "num_rows": 10}}
    write({"config.json": b"{}"}, root / "runs" / "one" / "best")
    write({"config.json": b"{}"}, tmp_path / "other" / "runs" / "one" / "best")
    judged = {
        "one": "/gone/runs/one/best",
        "two": "/gone/runs/two/best",
        "other": str(tmp_path / "other" / "runs" / "one" / "best"),
    }
    for name, model in judged.items():
        summary = {"model": model, "split": "dev", "data": "spider", "metrics": {"ex_bag": score}}
        write({"summary.json": json.dumps(summary).encode()}, root / "eval" / name)
    assert cli("push", "ada/student", "one").code == 0
    card = ModelCard(hub.files["model/ada/student"]["README.md"].decode())
    assert [line.split(" (")[0] for line in card.text.splitlines() if "ex_bag" in line] == ["| one"]


def test_scores_of_weights_that_were_there_before_are_left_out(cli: Cli, hub: Hub, tiny_model: Path, tmp_path: Path) -> None:
    """A run that was trained anew under its name, or judged before its end: the card showed what another student scored."""
    best = tmp_path / "artifacts" / "runs" / "one" / "best"
    shutil.copytree(tiny_model, best)
    score = {"all": {"value": 0.5, "low": 0.4, "high": 0.6, "num_rows": 10}}
    own, elsewhere = resolve(str(best)).identity, str(tmp_path / "a copy")
    judged = {
        "now": (str(best), own),
        "before": (str(best), "local:0"),
        "copy": (elsewhere, own),
        "other": (elsewhere, "local:0"),
    }
    for name, (model, identity) in judged.items():
        summary = {"model": model, "model_identity": identity, "metrics": {"ex_bag": score}}
        write({"summary.json": json.dumps(summary).encode()}, tmp_path / "artifacts" / "eval" / name)
    pushed = cli("push", "ada/student", "one")
    assert pushed.code == 0, pushed.err
    card = ModelCard(hub.files["model/ada/student"]["README.md"].decode())
    assert [line.split(" (")[0] for line in card.text.splitlines() if "ex_bag" in line] == ["| copy", "| now"]
    assert "evaluation before is of other weights" in " ".join(pushed.err.split())
    assert "evaluation other" not in pushed.err


def test_what_cannot_be_pushed_is_said(cli: Cli, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write({"config.json": b"{}"}, tmp_path / "model")
    refused = cli("push", "somebody/student", str(folder))
    assert (refused.code, "somebody" in refused.err, "hf auth whoami" in refused.err) == (1, True, True)
    for arguments, said in {
        ("student", str(folder)): "OWNER/NAME",
        ("ada/student", "kid"): "no run or folder kid",
        ("ada/data", "--data"): "nothing has been built here",
        ("ada/data", "kid", "--data"): "leave kid or --data out",
    }.items():
        done = cli("push", *arguments)
        assert (done.code, said in done.err) == (1, True), done.err
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the Hub refuses" in cli("push", "ada/student", str(folder)).err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "nothing"))
    done = cli("push", "ada/student", str(folder))
    assert (done.code, "hf auth login" in done.err) == (1, True)
    assert hub.files == {}
