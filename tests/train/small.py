"""Small real things for the trainer's tests: a 2-layer Qwen2, drawn examples, shards in the stages' schemas."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from kidcore.store.schemas import schema_of
from train.data.dataset import Source
from train.data.examples import Branch, TeacherTopK, TrainingExample
from train.data.shards import PartFiles

VOCAB_SIZE = 61
EOS = 1


def make_student(tied: bool = True, sliding_window: int = 0, seed: int = 0, heads: int = 4) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        eos_token_id=EOS,
        bos_token_id=None,
        pad_token_id=None,
        use_sliding_window=bool(sliding_window),
        sliding_window=sliding_window or None,
        max_window_layers=0,
    )
    model = Qwen2ForCausalLM(config)
    # The default initialisation makes nearly flat predictions, which hide mistakes in the loss.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.ndim == 2 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_teacher(rng: np.random.Generator, length: int, top_k: int = 6) -> TeacherTopK:
    logits = rng.normal(size=(length, VOCAB_SIZE)) * 3
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    order = np.argsort(-logprobs, axis=-1)
    count = rng.integers(1, top_k + 1, size=length)
    ids = np.concatenate([order[i, : count[i]] for i in range(length)])
    kept = np.concatenate([logprobs[i, order[i, : count[i]]] for i in range(length)])
    tail = np.array([1 - np.exp(logprobs[i, order[i, : count[i]]]).sum() for i in range(length)])
    return TeacherTopK(count.astype(np.int16), ids.astype(np.int32), kept.astype(np.float16), tail.astype(np.float32))


def make_examples(rng: np.random.Generator, databases: int, questions: int, views: int) -> list[TrainingExample]:
    """Gold and `views` imperfect branches a question; branches often share their first SQL tokens, or all of them."""
    examples = []
    for database in range(databases):
        schema = rng.integers(2, VOCAB_SIZE, size=rng.integers(1, 40))
        for question in range(questions):
            prompt = np.concatenate([schema, rng.integers(2, VOCAB_SIZE, size=rng.integers(1, 8))])
            gold = rng.integers(2, VOCAB_SIZE, size=rng.integers(1, 12))
            branches = [Branch(np.concatenate([prompt, gold]).astype(np.int32), len(prompt), EOS, True, None)]
            for _ in range(views):
                imperfect = np.where(rng.random(len(gold)) < 0.2, rng.integers(2, VOCAB_SIZE, size=len(gold)), gold)
                tokens = np.concatenate([prompt, imperfect]).astype(np.int32)
                branches.append(Branch(tokens, len(prompt), EOS, False, make_teacher(rng, len(gold) + 1)))
            examples.append(TrainingExample(f"e{database}-{question}", f"db{database}", tuple(branches)))
    return examples


def write_build(
    folder: Path, *, parts: int = 3, rows: int = 12, views: int = 2, databases: int = 3, seed: int = 0, learnable: bool = False
) -> Source:
    """Shards of a small build in the schemas of kidcore.store.schemas, and the Source that names them.

    Every seventh ingest row is set aside, and so is one answer a part. In a `learnable` build the gold is decided by the
    database, and the teacher knows it.
    """
    rng = np.random.default_rng(seed)
    schemas = [rng.integers(2, VOCAB_SIZE, size=20) for _ in range(databases)]
    files = []
    for part in range(parts):
        examples = [_Row(rng, f"p{part}-{i}", schemas, learnable) for i in range(rows)]
        usable = [example for i, example in enumerate(examples) if i % 7 != 6]
        folder.mkdir(parents=True, exist_ok=True)
        paths = part_files(folder, part, views)
        _write(paths.one("ingest"), schema_of("ingest"), [x.ingest(set_aside=i % 7 == 6) for i, x in enumerate(examples)])
        _write(
            paths.one("gold_score"),
            schema_of("gold_score"),
            [x.key() | x.tokens() | topk(x.teacher(rng, x.gold)) for x in usable],
        )
        for view, path in enumerate(paths.of("score")):
            _write(path, schema_of("score"), [x.score(rng, view) for x in usable])
        for sample, path in enumerate(paths.of("rollout_score")):
            _write(path, schema_of("score"), [x.rollout(rng, sample) for x in usable])
        for sample, path in enumerate(paths.of("generate")):
            _write(path, schema_of("generate"), [x.answer(sample, set_aside=i == 3) for i, x in enumerate(usable)])
        # Drawn apart, so that nothing else of a build depends on it.
        executed = np.random.default_rng([seed, part])
        for stage in ("outcome", "rollout_outcome", "generate_outcome"):
            for view, path in enumerate(paths.of(stage)):
                _write(path, schema_of(stage), [x.outcome(executed, view) for x in usable])
        files.append(paths)
    return Source(files, EOS, f"digest-{seed}")


def part_files(folder: Path, part: int, views: int = 2) -> PartFiles:
    """Where `write_build` puts the shards of a part."""
    return PartFiles(
        part,
        {
            "ingest": (folder / f"ingest-{part}.parquet",),
            "gold_score": (folder / f"gold-{part}.parquet",),
            "score": tuple(folder / f"score-{part}-{view}.parquet" for view in range(views)),
            "rollout_score": tuple(folder / f"rollout-{part}-{sample}.parquet" for sample in range(2)),
            "outcome": tuple(folder / f"outcome-{part}-{view}.parquet" for view in range(views)),
            "rollout_outcome": tuple(folder / f"rollout-outcome-{part}-{sample}.parquet" for sample in range(2)),
            "generate_outcome": tuple(folder / f"generate-outcome-{part}-{sample}.parquet" for sample in range(2)),
            "generate": tuple(folder / f"generate-{part}-{sample}.parquet" for sample in range(2)),
        },
    )


class _Row:
    def __init__(self, rng: np.random.Generator, example_id: str, schemas: list[np.ndarray], learnable: bool) -> None:
        database = int(rng.integers(len(schemas)))
        question = rng.integers(2, VOCAB_SIZE, size=5)
        self.example_id, self.db_id = example_id, f"db{database}"
        self.prompt = np.concatenate([schemas[database], question])
        self.gold = schemas[database][5:10] if learnable else rng.integers(2, VOCAB_SIZE, size=rng.integers(2, 9))
        self._learnable = learnable

    def key(self) -> dict[str, Any]:
        return {"example_id": self.example_id, "db_id": self.db_id}

    def tokens(self) -> dict[str, Any]:
        return {"prompt_ids": self.prompt, "gold_ids": self.gold}

    def ingest(self, set_aside: bool) -> dict[str, Any]:
        tokens = {"prompt_ids": [], "gold_ids": [], "gold_starts": []}
        if not set_aside:
            tokens = self.tokens() | {"gold_starts": np.arange(len(self.gold))}
        reason = "gold fails" if set_aside else None
        return self.key() | tokens | {"question": "q", "gold_sql": "s", "schema_tokens": 20, "reason": reason}

    def teacher(self, rng: np.random.Generator, sql: np.ndarray) -> TeacherTopK:
        if not self._learnable:
            return make_teacher(rng, len(sql) + 1)
        gold = np.append(self.gold, EOS)
        logprobs, tail = np.full(len(gold), np.log(0.9)), np.full(len(gold), 0.1, np.float32)
        return TeacherTopK(np.ones(len(gold), np.int16), gold.astype(np.int32), logprobs.astype(np.float16), tail)

    def score(self, rng: np.random.Generator, view: int) -> dict[str, Any]:
        wrong = rng.random(len(self.gold)) < 0.3
        imperfect = np.where(wrong, rng.integers(2, VOCAB_SIZE, size=len(self.gold)), self.gold)
        extra = {"view": view, "imperfect_ids": imperfect, "masked": np.flatnonzero(wrong)}
        extra["gold_logprob"] = np.full(len(self.gold) + 1, np.nan, np.float32)
        return self.key() | self.tokens() | extra | topk(self.teacher(rng, imperfect))

    def rollout(self, rng: np.random.Generator, view: int) -> dict[str, Any]:
        """An answer of any length, no SQL at all included."""
        answer = self.gold if self._learnable else rng.integers(2, VOCAB_SIZE, size=rng.integers(0, 9))
        extra = {"view": view, "imperfect_ids": answer, "masked": np.array([], np.int32)}
        extra["gold_logprob"] = np.zeros(len(answer) + 1, np.float32)
        return self.key() | self.tokens() | extra | topk(self.teacher(rng, answer))

    def outcome(self, rng: np.random.Generator, view: int) -> dict[str, Any]:
        executes, same = (bool(x) for x in rng.random(2) < (0.7, 0.5))
        return self.key() | {"view": view, "executes": executes, "same_result": executes and same}

    def answer(self, sample: int, set_aside: bool) -> dict[str, Any]:
        answer = np.roll(self.gold, 0 if self._learnable else 1 + sample)
        answered = {"generated_ids": answer, "generated_sql": "s", "reason": "generation cut off" if set_aside else None}
        return self.key() | answered | {"view": sample, "prompt_ids": self.prompt}


def topk(teacher: TeacherTopK) -> dict[str, Any]:
    return {
        "topk_count": teacher.count,
        "topk_ids": teacher.ids,
        "topk_logprobs": teacher.logprobs,
        "tail": teacher.tail,
        "actual_logprob": np.zeros(len(teacher.count), np.float32),
    }


def _write(path: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    plain = [{name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(plain, schema=schema), path, compression="zstd")


def save_small_student(folder: Path, **options: Any) -> Path:
    """A student folder as save_pretrained leaves it, with a file that stands for the tokenizer."""
    make_student(**options).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder
