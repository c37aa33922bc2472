"""Small builds for the tests: run one, and see which shards it made."""

from pathlib import Path

from kidcore.config.config import Config
from kidcore.config.config_load import load_config
from kidcore.store.manifest import Manifest
from kidcore.store.store import Store
from pipeline.build import BuildResult, build
from pipeline.context import open_context
from tests.conftest import configure


def in_shards_of_20(world: Path, model: Path, folder: Path, **changes: object) -> Config:
    """A build by transformers in `folder`, whose shards have 20 rows."""
    settings = {
        "data.path": str(world),
        "teacher.model": str(model),
        "engine.backend": "transformers",
        "ingest.shard_rows": 20,
        "store.path": str(folder),
    }
    return configure(settings, **changes)


def run_build(config: Config, until: str = "score") -> BuildResult:
    context = open_context(config, need_teacher=until != "ingest")
    try:
        return build(context, store_of(config), until=until, progress=False)
    finally:
        context.close()


def build_with(settings: dict[str, object]) -> None:
    """For a process of its own."""
    run_build(load_config(None, settings, {}).config)


def store_of(config: Config) -> Store:
    return Store(Path(config.store.path))


def made(result: BuildResult) -> dict[str, int]:
    """Shards made by stage, stages that made none left out."""
    return {stage: count for stage, count in result.ran.items() if count}


def files(manifest: Manifest, stage: str) -> list[str]:
    return list(manifest.files(stage))
