"""A build's context in; what a worker needs to know of it, in a form that travels, and its stages' bodies there out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kidcore.config.config import Config
from kidcore.config.digests import FileDigests
from kidcore.models.backends.facts import EngineFacts
from kidcore.models.sources import ModelSource
from kidcore.models.tokenizer_files import TokenizerFiles
from kidcore.sql.datasets import DataSet, Example
from kidcore.store.graph import Output, Partition, Task
from kidcore.store.stages import STAGE_TABLE
from pipeline.context import Context
from pipeline.outline import Outline
from pipeline.stages import Body, bind
from pipeline.workers.jobs import Job


@dataclass(frozen=True)
class BuildSetup:
    """A context without the data set's examples: those of a part come with its job."""

    config: Config
    databases: Path
    tokenizer: Path
    max_length: int
    teacher: ModelSource | None
    predictor: ModelSource | None
    start: ModelSource | None
    verbose: bool

    @classmethod
    def of(cls, context: Context, sandbox_workers: int) -> "BuildSetup":
        """`sandbox_workers` are the processes that execute SQL for each worker."""
        config = context.config
        sandbox = config.sandbox.model_copy(update={"workers": sandbox_workers})
        return cls(
            config=config.model_copy(update={"sandbox": sandbox}),
            databases=context.dataset.databases,
            tokenizer=context.tokenizer_files.folder,
            max_length=context.max_length,
            teacher=context.teacher,
            predictor=context.predictor,
            start=context.start,
            verbose=context.verbose,
        )

    def open(self) -> "BuildBodies":
        """The stages, in a worker's process."""
        return BuildBodies(
            _WorkerContext(
                config=self.config,
                dataset=DataSet([], self.databases),
                outline=Outline.of([], 1),
                parts=[],
                teacher=self.teacher,
                predictor=self.predictor,
                tokenizer_files=TokenizerFiles(self.tokenizer, FileDigests(None)),
                max_length=self.max_length,
                start=self.start,
                verbose=self.verbose,
            )
        )


class _WorkerContext(Context):
    """A context whose examples are handed in."""

    handed: Sequence[Example] = ()

    def examples(self, part: Partition) -> Sequence[Example]:
        assert len(self.handed) == part.rows, "a part came without its examples"
        return self.handed


class BuildBodies:
    """The functions of a build's stages, each bound when it is first run."""

    def __init__(self, context: _WorkerContext) -> None:
        self._context = context
        self._bound: dict[str, Body] = {}

    def run(self, job: Job, task: Task) -> Output:
        """The rows of the job's shard."""
        name = job.cell.stage
        if name not in self._bound:
            self._bound[name] = bind(name, self._context)
        self._context.handed = job.examples
        return self._bound[name](task)

    def take_engine(self) -> tuple[EngineFacts | None, float]:
        """The engine that was asked since the last call, and the seconds that it took to start."""
        return self._context.take_engine()


def model_of(config: Config, stage: str) -> str:
    """What an engine has to hold for a stage; empty for stages that ask no model."""
    model = STAGE_TABLE[stage].model
    fills = model == "predictor" and not config.predict.is_students
    return "teacher" if fills else model


def threads_asked() -> int:
    """Threads of a process, where the environment says; 0 where it leaves that open."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() else 0
