"""What the student makes and the teacher scores during training is what decoding, the build and plain passes give."""

import dataclasses
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from kidcore.config.config import Config
from kidcore.config.stage_settings import MaskSettings, PredictSettings, VerifySettings
from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.models.sources import resolve
from kidcore.models.tokenizers import load_tokenizer, special_ids, tokens_of
from kidcore.store.store import Store
from tests.conftest import configure
from tests.pipeline.running import run_build
from tests.pipeline.test_change_matrix import other_model
from tests.train.small import VOCAB_SIZE, make_student, save_small_student, write_build
from tests.train.stopping import stopped
from tests.train.test_methods import STOPS, online_setup
from train.data.dataset import Dataset, Source
from train.data.examples import TrainingExample
from train.data.shards import PartFiles
from train.online.online import Online
from train.online.setup import OnlineSetup
from train.step import Runner, RunObjective
from train.student.layout import choose_layout
from train.trainer import run

CPU = torch.device("cpu")


def config(method: str, **changes: object) -> TrainSettings:
    values: dict[str, object] = {"method": method, "batch_size": 8, "max_steps": 6, "holdout": 0.1, "learning_rate": 1e-2}
    return TrainSettings.model_validate(values | {"rollout_tokens": 9, "eval_every": 3, "save_every": 2} | changes)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path]:
    folder = tmp_path_factory.mktemp("online")
    save_small_student(folder / "teacher", seed=7)
    return write_build(folder, parts=3, rows=12), save_small_student(folder / "student")


def open_online(build: tuple[Source, Path], settings: TrainSettings, **changes: object) -> Online:
    model = make_student()
    choose_layout(model, "tree")
    return Online(settings, online_setup(build[1], **changes), model, 100, device=CPU, autocast_dtype=None)


def a_step(source: Source, settings: TrainSettings) -> list[TrainingExample]:
    return next(Dataset(source, settings).steps())


def test_answers_are_those_of_generate_one_prompt_at_a_time(build: tuple[Source, Path]) -> None:
    settings = config("gkd", rollout_temperature=0.0, rollout_tokens=12)
    examples = a_step(build[0], settings)
    answers = open_online(build, settings).rollouts(1, examples)
    model, finished = make_student().eval(), 0
    for example, (answer,) in zip(examples, answers, strict=True):
        gold = example.branches[0]
        prompt = torch.from_numpy(gold.tokens[: gold.start].astype(np.int64))[None]
        limits = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=list(STOPS), pad_token_id=0)
        plain = model.generate(prompt, generation_config=limits)[0, gold.start :].tolist()
        finished += plain[-1] in STOPS
        # The stop token is no part of a branch, and neither is the last token of an answer that has none.
        assert answer.tolist() == plain[:-1]
    assert 0 < finished < len(examples)


def test_a_drawn_answer_follows_from_seed_step_and_prompt_alone(build: tuple[Source, Path]) -> None:
    settings = config("gkd")
    examples = a_step(build[0], settings)
    online = open_online(build, settings)
    before = torch.get_rng_state()
    together = [row[0].tolist() for row in online.rollouts(5, examples)]
    assert torch.equal(before, torch.get_rng_state()), "the run's own random numbers are not touched"
    alone = [online.rollouts(5, [example])[0][0].tolist() for example in reversed(examples)]
    assert together == alone[::-1]
    assert together != [row[0].tolist() for row in online.rollouts(6, examples)]
    other = open_online(build, config("gkd", seed=1)).rollouts(5, examples)
    assert together != [row[0].tolist() for row in other]


def test_an_answer_ends_before_an_id_that_is_no_token(build: tuple[Source, Path]) -> None:
    """An output layer padded beyond the vocabulary; its further rows are as likely as others here."""
    settings = config("gkd")
    examples = a_step(build[0], settings)
    model = make_student()
    size = VOCAB_SIZE
    model.resize_token_embeddings(size + 3, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[size:] = model.get_output_embeddings().weight[5:8]
    choose_layout(model, "tree")
    setup = online_setup(build[1])
    padded = dataclasses.replace(setup, tokens=dataclasses.replace(setup.tokens, vocab_size=size + 3))
    drawn, cut = (
        [row[0].tolist() for row in Online(settings, each, model, 100, device=CPU, autocast_dtype=None).rollouts(5, examples)]
        for each in (padded, setup)
    )
    strange = [next((place for place, token in enumerate(answer) if token >= size), None) for answer in drawn]
    assert any(place is not None for place in strange)
    assert any(place is None for place in strange)
    assert cut == [answer[:place] for answer, place in zip(drawn, strange, strict=True)]


def test_the_share_of_answers_is_lambda_and_decays_for_imitkd(build: tuple[Source, Path]) -> None:
    examples = list(islice((e for step in Dataset(build[0], config("gkd")).steps() for e in step), 30))
    online = open_online(build, config("gkd", imperfect_share=0.3, rollout_tokens=1))
    drawn = [len(row) for step in range(1, 21) for row in online.rollouts(step, examples)]
    assert 0.24 < np.mean(drawn) < 0.36
    imitkd = open_online(build, config("imitkd", oracle_end=0.1, rollout_tokens=1))
    for step, share in ((1, 0.023), (50, 0.684), (100, 0.9)):
        drawn = [len(row) for seed in range(15) for row in _reseeded(imitkd, seed).rollouts(step, examples)]
        assert abs(np.mean(drawn) - share) < 4 * np.sqrt(share * (1 - share) / len(drawn))


def _reseeded(online: Online, seed: int) -> Online:
    online._settings = online._settings.model_copy(update={"seed": seed})
    return online


@pytest.mark.parametrize("strategy", ["random", "uniform", "hard", "easy"])
def test_masks_are_fresh_in_each_step_and_hit_what_the_student_is_unsure_of(build: tuple[Source, Path], strategy: str) -> None:
    settings = config("kid-online", views_per_step=2)
    examples = a_step(build[0], settings)
    fill = PredictSettings(fill="argmax_wrong")
    online = open_online(build, settings, mask=MaskSettings(strategy=strategy, ratio=0.3), predict=fill)
    holes = [_changed(examples, online.refilled(step, examples)) for step in (1, 2)]
    assert holes[0] != holes[1]
    assert [first for first, _ in holes[0]] != [second for _, second in holes[0]]
    if strategy in ("hard", "easy"):
        model = make_student().eval()
        for example, (first, _) in zip(examples, holes[0], strict=True):
            gold = example.branches[0]
            ids = torch.from_numpy(gold.tokens.astype(np.int64))
            with torch.no_grad():
                log_q = model(ids[None]).logits[0].log_softmax(-1)[gold.start - 1 : -1]
            sure = log_q[torch.arange(len(log_q)), ids[gold.start :]]
            order = sure.argsort(descending=strategy == "easy")[: len(first)]
            assert set(order.tolist()) == first


def test_what_the_student_fills_is_verified_by_the_teacher(build: tuple[Source, Path]) -> None:
    settings = config("kid-online")
    examples = a_step(build[0], settings)
    masks = MaskSettings(ratio=0.5)
    proposed = open_online(build, settings, mask=masks, predict=PredictSettings(fill="argmax_wrong")).refilled(1, examples)
    predict = PredictSettings(fill="verify", propose="argmax_wrong")
    online = open_online(build, settings, mask=masks, predict=predict, verify=VerifySettings(top_k=20))
    made, kept, replaced = online.refilled(1, examples), 0, 0
    teacher = AutoModelForCausalLM.from_pretrained(build[1].parent / "teacher", dtype=torch.float32)
    for example, (before,), (after,) in zip(examples, proposed, made, strict=True):
        gold = example.branches[0]
        ids = torch.from_numpy(np.concatenate([gold.tokens[: gold.start], before]).astype(np.int64))
        with torch.no_grad():
            logits = teacher(ids[None]).logits[0, gold.start - 1 : -1]
        logits[:, sorted(online._setup.tokens.banned)] = -torch.inf
        for place in np.flatnonzero(before != gold.tokens[gold.start :]):
            best = logits[place].argsort(descending=True).tolist()
            is_kept = before[place] in best[:20]
            own = next(token for token in best if token != gold.tokens[gold.start + place])
            assert after[place] == (before[place] if is_kept else own)
            kept, replaced = kept + is_kept, replaced + (not is_kept)
    assert kept
    assert replaced


def _changed(examples: list[TrainingExample], made: list[list[np.ndarray]]) -> list[list[set[int]]]:
    golds = [example.branches[0].tokens[example.branches[0].start :] for example in examples]
    return [[set(np.flatnonzero(sql != gold).tolist()) for sql in row] for gold, row in zip(golds, made, strict=True)]


def test_what_a_step_teaches(build: tuple[Source, Path]) -> None:
    settings = config("kid-online", views_per_step=3, imperfect_share=0.5, gold_share=0.5)
    examples = list(islice((e for step in Dataset(build[0], settings).steps() for e in step), 30))
    prepared = open_online(build, settings).prepare(1, examples)
    assert {"generate_seconds", "teacher_seconds", "generated_tokens"} == prepared.figures.keys()
    kinds = {tuple((b.learn_gold, b.teacher is not None) for b in example.branches) for example in prepared.examples}
    view = (False, True)
    assert kinds == {((True, True),), ((True, False), view, view, view), ((True, True), view, view, view)}
    bare = open_online(build, config("kid-online", mle_weight=0.0)).prepare(1, examples)
    assert all([b.learn_gold for b in example.branches] == [False] for example in bare.examples)
    online = open_online(build, config("gkd", imperfect_share=0.0))
    for example, taught in zip(examples, online.prepare(1, examples).examples, strict=True):
        assert [b.tokens.tolist() for b in taught.branches] == [example.branches[0].tokens.tolist()]


def test_the_model_is_as_it_was_afterwards(build: tuple[Source, Path]) -> None:
    settings = config("gkd")
    online = open_online(build, settings)
    model = online._model.train()
    model.generation_config.repetition_penalty = 1.7
    examples = a_step(build[0], settings)
    online.prepare(1, examples)
    assert model.training
    assert model.generation_config.repetition_penalty == 1.7
    Runner(model, CPU, "tree", 1000, None).accumulate(online.prepare(2, examples).examples, RunObjective.of(settings))
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("method", ["imitkd", "gkd", "kid-online"])
def test_interrupted_and_resumed_equals_uninterrupted(
    build: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    source, student = build
    setup = online_setup(student)
    with stopped(monkeypatch):
        run(config(method), source, student, tmp_path / "cut", online=setup)
    assert sorted(path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()) == ["step-00000002"]
    resumed = run(config(method), source, student, tmp_path / "cut", online=setup)
    whole = run(config(method), source, student, tmp_path / "whole", online=setup)
    assert resumed.final_nll == whole.final_nll
    assert _losses(tmp_path / "cut") == _losses(tmp_path / "whole")
    assert (resumed.last / "model.safetensors").read_bytes() == (whole.last / "model.safetensors").read_bytes()


def test_the_holdout_is_gold_with_the_teachers_distributions(build: tuple[Source, Path], tmp_path: Path) -> None:
    source, student = build
    settings = config("gkd", max_steps=3, imperfect_share=0.0, divergence="reverse_kl")
    run(settings, source, student, tmp_path / "run", online=online_setup(student))
    found = [x for x in map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines()) if x["kind"] == "eval"]
    assert [line["step"] for line in found] == [0, 3]
    for line in found:
        assert line["teacher_tokens"] == line["gold_tokens"] > 0
        assert line["loss"] == line["divergence"] > 0


def _losses(out: Path) -> list[tuple[float, ...]]:
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [tuple(line[name] for name in ("loss", "divergence", "teacher_tokens")) for line in records if line["kind"] == "step"]


def test_another_teacher_or_mask_is_another_run(build: tuple[Source, Path], tmp_path: Path) -> None:
    source, student = build
    setup = online_setup(student)
    run(config("kid-online", max_steps=1), source, student, tmp_path / "run", online=setup)
    other = resolve(str(save_small_student(tmp_path / "other", seed=8)))
    with pytest.raises(KidpipeError, match=r"teacher local:.* -> local:"):
        run(
            config("kid-online", max_steps=1), source, student, tmp_path / "run", online=dataclasses.replace(setup, teacher=other)
        )
    masked = dataclasses.replace(setup, mask=MaskSettings(ratio=0.7))
    with pytest.raises(KidpipeError, match=r"mask.ratio 0.4 -> 0.7"):
        run(config("kid-online", max_steps=1), source, student, tmp_path / "run", online=masked)
    run(config("gkd", max_steps=1), source, student, tmp_path / "gkd", online=setup)
    again = run(config("gkd", max_steps=1), source, student, tmp_path / "gkd", online=masked)
    assert again.was_finished, "no mask is drawn for gkd"


@pytest.fixture(scope="module")
def project(world: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Source, Path]:
    """A real build whose holes another student filled, of two views."""
    folder = tmp_path_factory.mktemp("project")
    student = other_model(tiny_model, folder / "student")
    values: dict[str, object] = {"data.path": str(world), "data.limit": 24, "teacher.model": str(tiny_model)}
    values |= {"predict.predictor": "student", "predict.student": str(student), "mask.ratio": 0.5, "outcome.execute": False}
    values |= {"engine.backend": "transformers", "score.top_k": 16, "store.path": str(folder / "artifacts")}
    settings = configure(values)
    manifest = run_build(settings).manifest
    root = Store(Path(settings.store.path)).root
    parts = [
        PartFiles(part.part, {stage: tuple(root / file for file in named) for stage, named in part.files.items()})
        for part in manifest.parts
    ]
    return settings, Source(parts, manifest.facts.eos_id, manifest.digest), student


def online_of(project: tuple[Config, Source, Path], settings: TrainSettings) -> Online:
    stored, _, student = project
    tokenizer = load_tokenizer(student)
    tokens = tokens_of(tokenizer, stored.predict.mask_token)
    setup = OnlineSetup(
        teacher=resolve(stored.teacher.model),
        dtype="float32",
        tokens=tokens,
        stop_ids=tuple(sorted({tokens.eos_id, *special_ids(tokenizer)})),
        max_length=512,
        batch_tokens=700,
        score=stored.score,
        mask=stored.mask,
        predict=stored.predict,
    )
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32, attn_implementation="sdpa")
    choose_layout(model, "tree")
    return Online(settings, setup, model, 10, device=CPU, autocast_dtype=None)


def same_teachers(left: TrainingExample, right: TrainingExample) -> None:
    for ours, theirs in zip(left.branches, right.branches, strict=True):
        assert ours.tokens.tolist() == theirs.tokens.tolist()
        assert ours.teacher is not None
        assert theirs.teacher is not None
        np.testing.assert_array_equal(ours.teacher.count, theirs.teacher.count)
        np.testing.assert_array_equal(ours.teacher.ids, theirs.teacher.ids)
        np.testing.assert_allclose(ours.teacher.logprobs.astype(np.float32), theirs.teacher.logprobs, atol=1e-2)
        np.testing.assert_allclose(ours.teacher.tail, theirs.teacher.tail, atol=1e-6)


def test_gold_scored_online_has_the_stored_numbers(project: tuple[Config, Source, Path]) -> None:
    """gkd with lambda 0 and forward KL is fkd without its maximum likelihood: the same teacher, asked now or before."""
    source = project[1]
    shared: dict[str, object] = {"batch_size": 24, "holdout": 0.0}
    gkd = config("gkd", imperfect_share=0.0, divergence="forward_kl", **shared)
    fkd = config("fkd", mle_weight=0.0, **shared)
    online = online_of(project, gkd)
    asked = online.prepare(1, a_step(source, gkd)).examples
    stored = a_step(source, fkd)
    for ours, theirs in zip(asked, stored, strict=True):
        same_teachers(ours, theirs)
    losses = [
        Runner(online._model, CPU, "tree", 2000, None).accumulate(examples, RunObjective.of(settings)).kd
        for examples, settings in ((asked, gkd), (stored, fkd))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_holes_filled_online_are_those_that_the_build_has_this_student_fill(project: tuple[Config, Source, Path]) -> None:
    """Step 1 masks as view 1 of the build."""
    source = project[1]
    shared: dict[str, object] = {"batch_size": 24, "holdout": 0.0, "mle_weight": 0.0}
    settings = config("kid-online", **shared)
    made = online_of(project, settings).prepare(1, a_step(source, settings)).examples
    by_id = {example.example_id: example for example in made}
    # The second epoch of kid shows view 1.
    views = list(islice(Dataset(source, config("kid", gold_share=0.0, **shared)).steps(), 2))[1]
    assert len(views) == len(by_id) == 24
    for view in views:
        same_teachers(by_id[view.example_id], view)
    gold = {example.example_id: example.branches[0].tokens.tolist() for example in a_step(source, settings)}
    assert sum(view.branches[0].tokens.tolist() != gold[view.example_id] for view in views) > 10
