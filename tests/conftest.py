"""What most tests stand on: a small made world, and a small model with a tokenizer of its own."""

import atexit
import gc
import importlib.util
import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis  # before what is imported is frozen: it asks the collector who refers to what
import pytest

# Tiny models gain nothing from a second thread, and lose much where other work runs beside the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from kidcore.config.config import Config, DataSettings, EngineSettings
from kidcore.config.config_load import load_config
from kidcore.models.backends.select import open_backend
from kidcore.models.templates.template import load_template, write_schema
from kidcore.sql.datasets import DataSet, read
from kidcore.sql.schema_text import read_schema
from kidpipe.demo.world import make_world

# The same examples on every run, and none that fails because the machine was busy while it ran.
hypothesis.settings.register_profile(
    "kidpipe", deadline=None, derandomize=True, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("kidpipe")

# The real ones: see `_frozen_for_good`.
FREEZE, UNFREEZE = gc.freeze, gc.unfreeze


def without_waiting(_file: object) -> None:
    """Instead of `os.fsync`: no test cuts the power, and the waiting for a disk is a tenth of some."""


@pytest.fixture(scope="session", autouse=True)
def _fast_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", without_waiting)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported here lives as long as the process: no garbage collection need look at it, half a second each."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        FREEZE()
        gc.enable()
        atexit.register(UNFREEZE)


def nothing() -> None:
    """Instead of `gc.freeze` and `gc.unfreeze`."""


@pytest.fixture(scope="session", autouse=True)
def _frozen_for_good() -> Iterator[None]:
    """vLLM freezes all there is when an engine starts and thaws it at its end: collections, a dozen an engine, then look at
    everything that is imported, four seconds an engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "freeze", nothing)
        patch.setattr(gc, "unfreeze", nothing)
        yield


@pytest.fixture(scope="session")
def _vllm_loaded(tiny_model: Path) -> None:
    """What the first engine of a process imports is frozen like all else that is imported."""
    if importlib.util.find_spec("vllm"):
        settings = EngineSettings(backend="vllm", device="cpu", kv_cache_mib=32)
        open_backend(tiny_model, settings, max_top_k=4, max_length=64).close()
        gc.collect()
        FREEZE()


@pytest.fixture(autouse=True)
def _vllm_where_it_is_needed(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("engine") and request.node.get_closest_marker("vllm"):
        request.getfixturevalue("_vllm_loaded")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in the Spider layout: 60 training and 24 held-out questions on real SQLite files."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, num_train=60, num_dev=24, seed=3)
    return folder


@pytest.fixture(scope="session")
def dataset(world: Path) -> DataSet:
    return read(DataSettings(path=str(world)), "train")


@pytest.fixture(scope="session")
def tiny_model(dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-layer Qwen2 and its tokenizer, as a Hugging Face folder."""
    # Not at the top, for the process that hands tests out to others: they begin five seconds sooner where it loads no torch.
    from kidpipe.demo.models import make_model, train_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    template = load_template("compact")
    texts = [write_schema(read_schema(dataset.database(d), d)) for d in sorted({e.db_id for e in dataset.examples})]
    for example in dataset.examples:
        texts += [template.question(example.question, "", "sqlite"), example.gold_sql]
    tokenizer = train_tokenizer(texts, 600)
    model = make_model(tokenizer, hidden_size=64, layers=2, heads=2, kv_heads=1, intermediate=96, max_length=512, seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _loggers_as_found() -> Iterator[None]:
    """A command sets up our loggers for its process. Left so, they write into the closed stream of a test that is over."""
    logs = [logging.getLogger(name) for name in ("kidpipe", "pipeline", "train", "eval", "kidcore")]
    found = [(log.handlers[:], log.level, log.propagate) for log in logs]
    yield
    for log, (handlers, level, propagate) in zip(logs, found, strict=True):
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)


@pytest.fixture
def settings(world: Path, tiny_model: Path, tmp_path: Path) -> dict[str, object]:
    """Flags of a small build with the reference engine."""
    return {
        "data.path": str(world),
        "teacher.model": str(tiny_model),
        "train.student": str(tiny_model),
        "engine.backend": "transformers",
        "ingest.shard_rows": 20,
        "score.top_k": 16,
        "store.path": str(tmp_path / "artifacts"),
    }


def configure(settings: dict[str, object], **changes: object) -> Config:
    """The configuration of `settings`, with `section__field=value` changed."""
    return load_config(None, settings | {name.replace("__", "."): value for name, value in changes.items()}, {}).config


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files start first: begun last, one of them would keep one core waiting for the other.

    A file is one process's (`--dist loadfile`), so that its fixtures are made once. What is slow is known by its markers, which
    tell seconds where it is many.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    by_weight = sorted(files.values(), key=lambda file: -sum(map(seconds, file)))
    items[:] = [item for file in by_weight for item in file]


def seconds(item: pytest.Item) -> float:
    """About how long a test takes: what its marker says, five where it says nothing, none without a marker."""
    marks = [mark for name in ("engine", "slow") if (mark := item.get_closest_marker(name))]
    return max((float(mark.kwargs.get("seconds", 5)) for mark in marks), default=0.0)
