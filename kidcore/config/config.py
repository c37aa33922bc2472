"""Every setting of kidpipe, with its kind, unit, range and default; loading them is config_load's.

Those of the stages in which models fill, score and answer are stage_settings', those of a run train_settings'.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from kidcore.config.settings import Dtype, Identity, Input, Later, ModelName, Place, Runtime, Section
from kidcore.config.stage_settings import (
    GenerateSettings,
    MaskSettings,
    OutcomeSettings,
    PredictSettings,
    RolloutSettings,
    ScoreSettings,
    VerifySettings,
)
from kidcore.config.train_settings import TrainSettings

DataLayout = Literal["spider", "spider-syn", "bird", "jsonl"]
BackendName = Literal["auto", "vllm", "transformers"]
FilePath = Annotated[str, Place.PATH]
TemplateName = Annotated[str, Place.TEMPLATE]

PROMPT_TEMPLATES = ("compact", "ddl", "values")
"""The built-in templates; any other `ingest.template` is a folder."""


class DataSettings(Section):
    """Where the text-to-SQL data lies. What it holds is hashed; where it lies is not."""

    layout: Input[DataLayout] = Field("spider", description="file layout of the data set")
    path: Input[FilePath] = Field("data", description="folder of the data set")
    train: Input[str] = Field("", description="file of training examples under path; empty = the layout's own")
    dev: Input[str] = Field("", description="file of held-out examples under path; empty = the layout's own")
    databases: Input[str] = Field("", description="folder of <db_id>/<db_id>.sqlite under path; empty = the layout's own")
    limit: Input[int] = Field(0, ge=0, description="use only the first n training examples; 0 = all")
    sample: Input[int] = Field(
        0, ge=0, description="use only n training examples (of those that limit leaves), spread over their databases; 0 = all"
    )
    sample_seed: Input[int] = Field(0, ge=0, description="seed of the choice of examples by sample")


class IngestSettings(Section):
    """How an example becomes a tokenised prompt."""

    template: Identity[TemplateName] = Field(
        "compact", description="how a prompt is written: compact, ddl, values, or a folder with schema.jinja and question.jinja"
    )
    sample_rows: Identity[int] = Field(3, ge=0, le=20, description="rows of each table shown by the ddl template")
    column_values: Later[Identity[int]] = Field(
        3, ge=0, le=100, description="distinct values of each column shown by the values template"
    )
    system: Later[Identity[str]] = Field(
        "", description="text before the schema: the system message under ingest.chat, else a line"
    )
    chat: Identity[Literal["auto"] | bool] = Field(
        False, description="wrap the prompt in the tokenizer's chat template; auto = where the model answers better with it"
    )
    chat_arguments: Later[Identity[dict[str, bool | int | float | str]]] = Field(
        {}, description="variables of the chat template, such as {enable_thinking = false}"
    )
    chat_date: Later[Identity[str]] = Field("2024-07-26", description="the day that chat templates take for today, YYYY-MM-DD")
    fit: Later[Identity[Literal["whole", "tables"]]] = Field(
        "whole",
        description="a prompt that is too long: whole = set aside, tables = with the tables that fit, by their relevance",
    )
    max_prompt_tokens: Identity[int] = Field(2048, ge=16, description="longer prompts are set aside or cut (fit), tokens")
    max_sql_tokens: Identity[int] = Field(256, ge=4, description="longer gold SQL is set aside, tokens")
    shard_rows: Identity[int] = Field(512, ge=1, description="source examples per shard, in the mean")
    check_gold: Identity[bool] = Field(True, description="set aside examples whose gold SQL does not execute")
    max_steps: Identity[int] = Field(100_000_000, ge=1000, description="SQLite steps per gold SQL: a repeatable deadline")

    def identity(self) -> dict[str, Any]:
        """As for any section, but for a template of one's own: what its folder holds is hashed, where it lies is not."""
        return _without_folder(super().identity())

    def all_identity(self) -> dict[str, Any]:
        return _without_folder(super().all_identity())


def _without_folder(settings: dict[str, Any]) -> dict[str, Any]:
    is_folder = settings.get("template", "compact") not in PROMPT_TEMPLATES
    return settings | {"template": "folder"} if is_folder else settings


class TeacherSettings(Section):
    """The model that fills the holes and scores."""

    model: Input[ModelName] = Field(
        "", description="Hugging Face name or local folder, whose weights are hashed; or URLs of vLLM servers, commas between"
    )
    tokenizer: Input[ModelName] = Field(
        "", description="tokenizer of a teacher behind a URL: Hugging Face name or local folder; empty otherwise"
    )
    revision: Input[str] = Field("", description="branch, tag or commit of a Hugging Face name; empty = main")
    dtype: Identity[Dtype] = Field("auto", description="precision of the weights; auto = as stored")


class EngineSettings(Section):
    """How models are run. Nothing here changes what is computed."""

    backend: Runtime[BackendName] = Field("auto", description="auto = vLLM where it is installed, else transformers")
    device: Runtime[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto = a GPU where there is one")
    tensor_parallel: Runtime[int] = Field(1, ge=1, description="GPUs a model is split over (vLLM)")
    workers: Runtime[Literal["auto"] | Annotated[int, Field(ge=1)]] = Field(
        "auto", description="engines that a build asks side by side (Ray); auto = GPUs / tensor_parallel, at least 1"
    )
    ray: Runtime[str] = Field(
        "", description="Ray cluster that the engines run on: HOST:PORT, or auto for the one at hand; empty = this machine"
    )
    gpu_memory: Runtime[float] = Field(0.85, gt=0, le=1, description="share of GPU memory that vLLM may take")
    kv_cache_mib: Runtime[int] = Field(512, ge=32, description="key-value cache on the CPU, MiB (vLLM)")
    batch_tokens: Runtime[int] = Field(8192, ge=64, description="tokens per forward pass; bounds peak memory")
    prefix_cache: Runtime[bool] = Field(True, description="compute a shared prompt prefix once (vLLM)")
    server_requests: Runtime[int] = Field(32, ge=1, description="requests under way at each server of a teacher behind a URL")
    server_timeout_s: Runtime[float] = Field(300.0, gt=0, description="longest a server may take for an answer, seconds")
    server_patience_s: Runtime[float] = Field(
        600.0, ge=0, description="longest that a build waits for servers that went away, seconds"
    )


class EvalSettings(Section):
    """How SQL is generated and judged."""

    max_new_tokens: Identity[int] = Field(256, ge=1, description="longest SQL generated, tokens")
    dtype: Later[Identity[Dtype]] = Field("auto", description="precision of the model that is judged; auto = as stored")
    samples: Identity[int] = Field(
        1, ge=1, description="SQL texts generated per question, of which the majority's result counts; 1 = greedy"
    )
    sample_temperature: Identity[float] = Field(0.8, gt=0, description="temperature of sampling; of no account with one sample")
    sample_seed: Identity[int] = Field(0, description="seed of sampling")
    limit: Input[int] = Field(0, ge=0, description="use only the first n held-out examples; 0 = all")
    keep_distinct: Identity[bool] = Field(
        True, description="leave DISTINCT in; false strips it for ex_bag, as published numbers do"
    )
    mend_operators: Identity[bool] = Field(False, description="read `> =` as `>=`, `YEAR(CURDATE())` as 2020, as the test suite")
    exact_match: Identity[bool | Literal["official"]] = Field(
        True, description="compute Spider's exact set match too; official = with the official evaluator's misreadings"
    )
    soft_f1: Identity[bool] = Field(False, description="compute BIRD's Soft-F1 too")
    r_ves: Identity[bool] = Field(
        False, description="compute BIRD's R-VES too: it times every correct prediction against its gold"
    )
    ves_repeats: Identity[int] = Field(100, ge=1, description="executions of each for R-VES; of no account without r_ves")
    check_ties: Identity[bool] = Field(True, description="flag rows whose gold result depends on the order rows are visited in")
    max_steps: Identity[int] = Field(
        1_000_000_000,
        ge=0,
        description="SQLite virtual-machine steps per statement; stops the same ones on every machine; 0 = no limit",
    )


class SandboxSettings(Section):
    """The processes that execute SQL: gold and imperfect in a build, gold and predicted in an evaluation."""

    workers: Runtime[int] = Field(0, ge=0, description="processes that execute SQL; 0 = one per core that this one may use")
    memory_mib: Runtime[int] = Field(1024, ge=64, description="memory of such a process, MiB")
    timeout_s: Runtime[float] = Field(10.0, gt=0, description="deadline of one predicted statement, seconds")
    gold_timeout_s: Runtime[float] = Field(
        120.0, gt=0, description="deadline of one gold statement, and of any statement of a build, seconds"
    )


class StoreSettings(Section):
    """Where artifacts go."""

    path: Runtime[FilePath] = Field("artifacts", description="folder of shards, manifests and runs")
    lock: Runtime[Literal["auto", "flock", "file"]] = Field(
        "auto",
        description="what keeps a second build out: flock, or a lock file as network file systems need; auto: either",
    )


class Config(Section):
    """The whole configuration, one attribute a section of kidpipe.toml."""

    data: Runtime[DataSettings] = Field(DataSettings(), description="the text-to-SQL data set")
    ingest: Runtime[IngestSettings] = Field(IngestSettings(), description="from examples to tokenised prompts")
    teacher: Runtime[TeacherSettings] = Field(TeacherSettings(), description="the model distilled from")
    engine: Runtime[EngineSettings] = Field(EngineSettings(), description="how models are run")
    mask: Runtime[MaskSettings] = Field(MaskSettings(), description="which SQL tokens are masked")
    predict: Runtime[PredictSettings] = Field(PredictSettings(), description="how masked tokens are filled")
    verify: Runtime[VerifySettings] = Field(VerifySettings(), description="how the teacher checks what a student filled in")
    outcome: Runtime[OutcomeSettings] = Field(OutcomeSettings(), description="executing imperfect SQL, for the statistics")
    score: Runtime[ScoreSettings] = Field(ScoreSettings(), description="what is stored of the teacher")
    generate: Runtime[GenerateSettings] = Field(GenerateSettings(), description="the teacher's own answers, for seqkd")
    rollout: Runtime[RolloutSettings] = Field(RolloutSettings(), description="a student's own answers, scored once, for opd")
    train: Runtime[TrainSettings] = Field(TrainSettings(), description="a student run")
    eval: Runtime[EvalSettings] = Field(EvalSettings(), description="generating and judging SQL")
    sandbox: Runtime[SandboxSettings] = Field(SandboxSettings(), description="the processes that execute SQL")
    store: Runtime[StoreSettings] = Field(StoreSettings(), description="where artifacts go")

    @property
    def student_that_fills(self) -> tuple[str, str]:
        """The setting that names the student which fills holes, and what it says; with fill = verify it may be the start."""
        if self.predict.student or self.predict.fill != "verify":
            return "predict.student", self.predict.student
        return "train.student", self.train.student


RENAMED = {
    "eval.workers": "sandbox.workers",
    "eval.memory_mib": "sandbox.memory_mib",
    "eval.timeout_s": "sandbox.timeout_s",
    "eval.gold_timeout_s": "sandbox.gold_timeout_s",
}
"""Settings by the names that earlier versions gave them: they are read, with a line that says the new name."""
