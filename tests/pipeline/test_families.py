"""Eight families of tokenizers, each through ingest, mask, score, training and evaluation."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kidcore.errors import KidpipeError
from kidcore.models.prompts import PROMPT_FOLDER, PromptBuilder
from kidcore.models.tokenizers import load_tokenizer
from kidcore.sql.datasets import DataSet
from kidcore.store.arrow import lists
from kidcore.store.store import Store
from kidpipe.commands.evaluate import evaluate
from kidpipe.commands.session import open_session
from kidpipe.commands.train import train
from tests.conftest import configure
from tests.kidcore.models.families import FAMILIES, GIVES_SQL_BACK
from tests.pipeline.running import files, run_build, store_of


def save(folder: Path, tokenizer: Any) -> Path:
    """A one-layer Llama whose output layer is padded beyond the tokenizer."""
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=max(tokenizer.get_vocab().values()) + 9,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_family_goes_through_every_stage(
    name: str, settings: dict[str, object], dataset: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save(tmp_path / "model", FAMILIES[name]())
    small = {"teacher.model": str(model), "train.student": str(model), "data.limit": 8, "mask.views": 1, "eval.limit": 2}
    settings |= small | {"train.max_steps": 1, "train.batch_size": 4, "train.dtype": "float32", "eval.max_new_tokens": 4}
    config = configure(settings)
    if name not in GIVES_SQL_BACK:
        with pytest.raises(KidpipeError, match="all 8 examples were set aside: 8 gold SQL is altered by the tokenizer"):
            run_build(config)
        return
    result = run_build(config)
    ingest, mask, score = (read(store_of(config), result.manifest, stage) for stage in ("ingest", "mask", "score"))
    reasons = [reason for reason in ingest.column("reason").to_pylist() if reason]
    assert (reasons, mask.num_rows, score.num_rows) == ([], 8, 8)
    tokenizer = load_tokenizer(model)
    check_ids(PromptBuilder.of(config.ingest, tokenizer), ingest, dataset)
    run = Path(train(open_session(None, [], settings, use_file=False), name="", as_json=True)["run"])
    saved = PromptBuilder.load(run / "best" / PROMPT_FOLDER, load_tokenizer(run / "best"))
    for example, prompt in zip(dataset.examples, lists(ingest, "prompt_ids"), strict=False):
        database = dataset.database(example.db_id)
        assert saved.build(database, example.db_id, example.question, example.evidence).ids == prompt.tolist()
    summary = evaluate(open_session(None, [], settings, use_file=False), run.name, name="", as_json=True)
    assert summary["examples"] == 2
    capsys.readouterr()


def read(store: Store, manifest: Any, stage: str) -> pa.Table:
    return pa.concat_tables(pa.parquet.read_table(store.root / file) for file in files(manifest, stage))


def check_ids(builder: PromptBuilder, ingest: pa.Table, dataset: DataSet) -> None:
    tokenizer = builder.tokenizer
    begins = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    columns = (lists(ingest, name) for name in ("prompt_ids", "gold_ids", "gold_starts"))
    for example, prompt, gold, starts in zip(dataset.examples, *columns, strict=False):
        assert builder.encoder.decode(gold.tolist()) == example.gold_sql
        assert builder.encoder.control.isdisjoint(gold.tolist())
        assert starts.tolist() == sorted(starts.tolist())
        assert (prompt[0] == tokenizer.bos_token_id) == begins
        assert builder.encoder.count_control(prompt.tolist()) == begins
