"""What decides a model's shards beside its weights is in their keys where nothing else tells it, and nowhere else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kidcore.config.config_load import load_config
from kidcore.config.digests import FileDigests
from kidcore.models.sources import ModelSource, read_source
from kidcore.models.tokenizer_files import TokenizerFiles
from kidcore.models.tokenizers import usual_mask
from kidcore.sql.datasets import DataSet
from kidcore.store.frames import read_frame
from kidcore.store.graph import Grid
from pipeline.build import build
from pipeline.context import Context, open_context
from pipeline.outline import Outline
from pipeline.stages import every_stage
from tests.conftest import configure
from tests.pipeline.running import made, run_build, store_of

BESIDE = ("answer.end", "mask_token.id", "sequence.longest")
PAD, EOS, MASK, UNK = range(4)
"""Ids of the small model's tokens."""
ANOTHER_END = {"eos_token": "<unk>", "unk_token": "<eos>"}
ANOTHER_MASK = {"mask_token": "<pad>", "pad_token": "<mask>"}


def edit(model: Path, folder: Path, **tokens: str) -> Path:
    """The same model, whose tokenizer_config.json names other tokens."""
    shutil.copytree(model, folder)
    name(folder, **tokens)
    return folder


def name(folder: Path, **tokens: str) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | tokens))


@pytest.fixture
def beside(dataset: DataSet, tiny_model: Path) -> Any:
    """By stage, what its keys hold beside weights and settings."""

    def find(
        folder: Path = tiny_model, model: ModelSource | None = None, length: int = 32768, start: int | None = None, **flags: Any
    ) -> dict[str, Any]:
        config = load_config(None, {name.replace("__", "."): value for name, value in flags.items()}, {}, use_file=False).config
        source = model or replace(read_source(folder), identity="local:1", max_length=length)
        outline, files = Outline.of(dataset.examples, 512), TokenizerFiles(folder, FileDigests(None))
        context = Context(
            config,
            dataset,
            outline,
            [],
            source,
            source,
            files,
            source.max_length,
            replace(source, max_length=start or source.max_length),
        )
        found = {stage.name: {k: v for k, v in stage.identity.items() if k in BESIDE} for stage in every_stage(context)}
        return {stage: values for stage, values in found.items() if values}

    return find


def test_of_a_model_and_its_own_tokenizer_nothing_is_in_keys(beside: Any) -> None:
    assert beside() == {}
    assert beside(length=512) == {}


def test_another_end_of_sequence_is_in_the_keys_of_all_that_a_model_makes(beside: Any, tiny_model: Path, tmp_path: Path) -> None:
    found = beside(edit(tiny_model, tmp_path / "other", **ANOTHER_END))
    stages = ("gold_score", "predict", "score", "generate", "rollout", "rollout_score")
    assert found == {key: {"answer.end": UNK} for key in stages}


def test_another_mask_is_in_those_of_predict(beside: Any, tiny_model: Path, tmp_path: Path) -> None:
    folder = edit(tiny_model, tmp_path / "other", **ANOTHER_MASK)
    assert beside(folder) == {"predict": {"mask_token.id": PAD}}
    assert beside(folder, predict__mask_token="<mask>") == {}


@pytest.mark.parametrize("identity", ["hub:some/model@1", "served:m@1"])
def test_an_identity_that_stands_for_the_tokenizer_tells_both(
    beside: Any, tiny_model: Path, tmp_path: Path, identity: str
) -> None:
    folder = edit(tiny_model, tmp_path / "other", **ANOTHER_END | ANOTHER_MASK)
    model = replace(read_source(folder), identity=identity, max_length=4096)
    assert beside(folder, model) == {}
    assert beside(folder, replace(model, path=tiny_model)), "the tokenizer is another's"


@pytest.mark.parametrize(
    ("said", "end"), [(151645, 151645), ([128001, 128008, 128009], 128009), ([], None), (None, None), (-1, None)]
)
def test_of_several_ends_in_a_configuration_the_last_is_expected(
    tiny_model: Path, tmp_path: Path, said: Any, end: int | None
) -> None:
    folder = edit(tiny_model, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": said}))
    assert read_source(folder).eos_id == end


class Vocabulary(dict[str, int]):
    """As much of a tokenizer as is asked for."""

    def get_vocab(self) -> dict[str, int]:
        return self


@pytest.mark.parametrize(
    ("tokens", "pad_id", "mask"),
    [
        ({"<unk>": 128244, "<|endoftext|>": 151643, "<|im_end|>": 151645}, None, 151643),  # Qwen2.5-Instruct, as it is on the Hub
        ({"<unk>": 128244, "<|endoftext|>": 151643}, 151643, 151643),
        ({"<unk>": 0, "<s>": 1, "</s>": 2}, None, 0),  # Mistral
        ({"<unk>": 0, "<pad>": 10}, None, 10),
        ({"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4}, 0, 0),  # Gemma
        ({"<pad>": 0, "<eos>": 1, "<mask>": 2, "<unk>": 3}, 0, 2),
        ({"a": 0}, None, None),
    ],
)
def test_the_mask_that_a_vocabulary_makes_one_expect(tokens: dict[str, int], pad_id: int | None, mask: int | None) -> None:
    assert usual_mask(Vocabulary(tokens), pad_id) == mask


@pytest.mark.parametrize(
    ("ingest", "most", "length", "longest"),
    [
        ((2048, 256), 256, 32768, None),
        ((2048, 256), 256, 512, None),
        ((2048, 256), 400, 32768, None),  # the defaults cut some, always at the same length
        ((2048, 512), 256, 32768, None),  # none is cut
        ((1024, 256), 256, 32768, None),
        ((4096, 256), 256, 32768, None),
        ((2048, 512), 400, 32768, 2561),
        ((2048, 100), 256, 32768, 2149),
        ((2148, 156), 256, 32768, 2305),  # as long as with the defaults, but for longer prompts
        ((400, 100), 24, 512, None),
        ((226, 54), 120, 512, 281),
    ],
)
def test_the_longest_sequence_is_in_the_keys_of_answers_that_it_may_cut(
    beside: Any, ingest: tuple[int, int], most: int, length: int, longest: int | None
) -> None:
    flags = {"ingest__max_prompt_tokens": ingest[0], "ingest__max_sql_tokens": ingest[1]}
    found = beside(length=length, generate__max_new_tokens=most, rollout__max_new_tokens=most, **flags)
    assert found == ({} if longest is None else {key: {"sequence.longest": longest} for key in ("generate", "rollout")})


def test_a_student_that_takes_less_cuts_its_own_answers(beside: Any) -> None:
    assert beside(start=512) == {}, "its configuration says where"
    flags = {"ingest__max_sql_tokens": 512, "rollout__max_new_tokens": 300}
    assert beside(start=2400, **flags) == {"rollout": {"sequence.longest": 2400}}


@pytest.fixture
def own(settings: dict[str, object], tiny_model: Path, tmp_path: Path) -> dict[str, object]:
    """A small build with a teacher and a student in folders of its own."""
    folders = {name: str(edit(tiny_model, tmp_path / name)) for name in ("teacher", "student")}
    return settings | {"teacher.model": folders["teacher"], "train.student": folders["student"], "mask.views": 1}


@pytest.mark.parametrize(
    ("tokens", "again"),
    [
        (ANOTHER_END, {"ingest", "gold_score", "predict", "score"}),
        (ANOTHER_MASK, {"ingest", "predict", "rewrite", "outcome", "score"}),
    ],
)
def test_tokens_that_are_named_otherwise_make_what_depends_on_them_anew(
    own: dict[str, object], tmp_path: Path, tokens: dict[str, str], again: set[str]
) -> None:
    run_build(configure(own))
    for role in ("teacher", "student"):
        name(tmp_path / role, **tokens)
    result = run_build(configure(own))
    assert set(made(result)) == again
    fresh = run_build(configure(own, store__path=str(tmp_path / "fresh")))
    assert result.manifest.digest == fresh.manifest.digest
    end = result.manifest.facts.eos_id
    scored = read_frame(store_of(configure(own)), result.manifest, "gold_score")
    assert end == (UNK if tokens is ANOTHER_END else EOS)
    assert scored["topk_count"].list.len().equals(scored["gold_ids"].list.len() + 1)
    shutil.rmtree(tmp_path / "teacher")
    assert_finished(own, "its teacher is gone")


def assert_finished(settings: dict[str, object], why: str) -> None:
    config = configure(settings)
    context = open_context(config, need_teacher=False)
    try:
        grid = Grid(every_stage(context), context.parts, store_of(config))
        left = {stage.name for stage in grid.stages if not grid.is_finished(stage)}
    finally:
        context.close()
    assert not left - {"generate", "generate_outcome", "rollout", "rollout_outcome", "rollout_score"}, why


def test_answers_that_are_too_long_now_are_made_anew(own: dict[str, object]) -> None:
    """With the same prompts, but less room behind them: what is scored must not be longer than a model is started for."""
    settings = own | {"rollout.max_new_tokens": 120, "rollout.temperature": 0.0}
    first = answers(settings)
    ingest = read_frame(store_of(configure(settings)), first.manifest, "ingest").filter(pl.col("reason").is_null())
    longest = {name: int(max(ingest[f"{name}_ids"].list.len())) for name in ("prompt", "gold")}
    changed = settings | {"ingest.max_prompt_tokens": longest["prompt"], "ingest.max_sql_tokens": longest["gold"]}
    second = answers(changed)
    assert {"ingest", "rollout", "rollout_score"} <= set(made(second))
    store = store_of(configure(settings))
    assert not read_frame(store, first.manifest, "rollout").equals(read_frame(store, second.manifest, "rollout"))


def answers(settings: dict[str, object]) -> Any:
    config = configure(settings)
    context = open_context(config, need_start=True)
    try:
        return build(context, store_of(config), until="rollout_score", progress=False)
    finally:
        context.close()
