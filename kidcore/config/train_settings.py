"""The settings of a student run: what it learns, how fast, and what becomes of it."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kidcore.config.settings import Dtype, Identity, Input, ModelName, Runtime, Section

Method = Literal["sft", "seqkd", "fkd", "rkd", "f-distill", "imitkd", "gkd", "kid", "kid-online", "opd"]
DivergenceName = Literal[
    "auto",
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "total_variation",
    "skew_forward_kl",
    "skew_reverse_kl",
    "entropy_kl",
]
Parallel = Literal["auto", "ddp", "fsdp"]
Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]


def _listed(value: Any) -> Any:
    """The texts of a list that was written as one text, with commas."""
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


Trackers = Annotated[tuple[Tracker, ...], BeforeValidator(_listed)]


class TrainSettings(Section):
    """A student run. No data stage depends on it."""

    method: Identity[Method] = Field("kid", description="training objective")
    student: Input[ModelName] = Field("", description="Hugging Face name or local folder the run starts from")
    epochs: Identity[float] = Field(3.0, gt=0, description="passes over the examples")
    max_steps: Identity[int] = Field(0, ge=0, description="optimiser steps; 0 = as many as the epochs give")
    batch_size: Identity[int] = Field(32, ge=1, description="examples per optimiser step, over all processes")
    group_size: Identity[int] = Field(4, ge=1, description="questions on one database kept together, to share its schema")
    buffer_shards: Identity[int] = Field(4, ge=1, description="shards shuffled together; bounds memory")
    pack_tokens: Runtime[Literal["auto"] | Annotated[int, Field(ge=64)]] = Field(
        "auto",
        description="tokens per forward pass; bounds peak memory; auto = 4096, with one GPU up to 16384 as its memory allows",
    )
    packing: Runtime[Literal["auto", "tree", "plain", "none"]] = Field("auto", description="auto = tree where the model can")
    learning_rate: Identity[Literal["auto"] | Annotated[float, Field(gt=0)]] = Field(
        "auto",
        description="peak learning rate; auto = 2e-4 with LoRA, else by the student's size: 1e-5 at 0.5 billion weights",
        json_schema_extra={"left_out": 2e-4},
    )
    warmup: Identity[float] = Field(0.03, ge=0, le=1, description="share of the steps that warm up")
    warmup_steps: Identity[Literal["auto"] | Annotated[int, Field(ge=0)]] = Field(
        "auto",
        description="steps that warm up at least, yet no more than half of them; auto = 10 where learning_rate is auto, else 0",
        json_schema_extra={"left_out": 0},
    )
    min_lr: Identity[float] = Field(0.1, ge=0, le=1, description="end of the cosine, as a share of the peak")
    weight_decay: Identity[float] = Field(0.0, ge=0, description="AdamW weight decay, matrices only")
    beta2: Identity[float] = Field(0.99, gt=0, lt=1, description="AdamW second-moment decay")
    clip: Identity[float] = Field(1.0, gt=0, description="largest gradient norm")
    mle_weight: Identity[float] = Field(
        1.0, ge=0, description="weight of maximum likelihood on gold (fkd, rkd, f-distill, kid, kid-online)"
    )
    on_policy_mle: Identity[float] = Field(0.0, ge=0, description="weight of maximum likelihood on gold (imitkd, gkd, opd)")
    kd_weight: Identity[float] = Field(1.0, ge=0, description="weight of the divergence (all but sft and seqkd)")
    divergence: Identity[DivergenceName] = Field(
        "auto",
        description="from teacher to student; auto = the method's own; entropy_kl = forward_kl where the teacher is in doubt, "
        "reverse_kl where it is not",
    )
    divergence_parameter: Identity[float] = Field(
        0.5, gt=0, lt=1, description="beta of jensen_shannon (teacher's share), skew of skew_forward_kl and skew_reverse_kl"
    )
    gold_divergence: Identity[DivergenceName] = Field(
        "auto", description="the same on gold SQL, for methods that teach imperfect SQL too; auto = that of divergence"
    )
    position_weight: Identity[Literal["none", "entropy", "sure_and_wrong"]] = Field(
        "none",
        description="positions whose divergence counts more: where the teacher's stored entropy is high, or the student is sure "
        "and the teacher does not agree",
    )
    position_gain: Identity[float] = Field(5.0, ge=1, description="how many times such a position counts at most")
    views_per_step: Identity[int] = Field(1, ge=1, description="imperfect views per example and step (kid, kid-online)")
    imperfect_share: Identity[float] = Field(
        1.0,
        ge=0,
        le=1,
        description="share of examples whose imperfect SQL is taught (kid, kid-online; gkd: lambda), others: gold",
    )
    gold_share: Identity[Literal["auto"] | Annotated[float, Field(ge=0, le=1)]] = Field(
        "auto",
        description="share of those examples whose gold SQL carries the divergence too, 0 to 1; auto = 1 for kid, else 0",
    )
    rollout_share: Identity[float] = Field(
        0.0,
        ge=0,
        le=1,
        description="share of examples whose imperfect SQL is a stored answer of the start, not filled (kid)",
    )
    view_choice: Identity[Literal["all", "prefer_plausible", "only_plausible"]] = Field(
        "all",
        description="imperfect SQL that an example shows (kid, opd); plausible = it executes and gives another result than gold; "
        "prefer_plausible: those where there are any; only_plausible: those, else gold",
    )
    answers: Identity[Literal["all", "correct"]] = Field(
        "all", description="which of the teacher's answers are taught (seqkd); correct = those whose result is gold's"
    )
    oracle_end: Identity[float] = Field(
        0.05, gt=0, le=1, description="share of examples taught on gold at the end of a run (imitkd), decaying from 1"
    )
    rollout_tokens: Identity[int] = Field(
        256, ge=1, description="longest SQL the student generates in training (imitkd, gkd), tokens"
    )
    rollout_temperature: Identity[float] = Field(
        1.0, ge=0, le=10, description="temperature at which the student generates in training (imitkd, gkd); 0 = greedy"
    )
    rollout_backend: Identity[Literal["transformers", "vllm"]] = Field(
        "transformers",
        description="what generates in training (imitkd, gkd); vllm = an engine beside one process: lower engine.gpu_memory",
    )
    holdout: Identity[float] = Field(0.02, ge=0, lt=0.5, description="share of the examples kept for evaluation during training")
    holdout_most: Identity[int] = Field(1000, ge=1, description="examples kept for evaluation at most; the rest is trained on")
    eval_every: Identity[int] = Field(0, ge=0, description="steps between evaluations; 0 = once an epoch")
    save_every: Runtime[int] = Field(0, ge=0, description="steps between checkpoints; 0 = with each evaluation")
    save_minutes: Runtime[float] = Field(
        15.0, ge=0, description="minutes between checkpoints, beside save_every; 0 = no such ones"
    )
    report_to: Runtime[Trackers] = Field(
        (), description="where figures go beside log.jsonl, one or a list: tensorboard, wandb, trackio, mlflow"
    )
    dtype: Identity[Dtype] = Field("auto", description="precision of forward and backward; auto = bfloat16 on GPUs that have it")
    lora_rank: Identity[int] = Field(0, ge=0, description="rank of LoRA adapters on the linear layers; 0 = train all weights")
    lora_alpha: Identity[float] = Field(32.0, gt=0, description="LoRA scale; adapters are multiplied by alpha / rank")
    lora_targets: Identity[str] = Field(
        "all-linear", description="layers that get adapters, names with commas between; all-linear = all but the LM head"
    )
    parallel: Runtime[Parallel] = Field(
        "auto", description="under torchrun: ddp = whole models, fsdp = divided ones; auto = ddp where it fits on a GPU"
    )
    loader_workers: Runtime[int] = Field(
        -1, ge=-1, description="processes that read and pack ahead; -1 = two per training process where cores are to spare"
    )
    compile: Runtime[bool] = Field(
        False, description="compile the layers of a student that a CUDA GPU holds whole: faster steps after a slow first one"
    )
    gradient_checkpointing: Runtime[bool] = Field(False, description="recompute activations to save memory")
    seed: Identity[int] = Field(0, ge=0, lt=2**63, description="seed of the order of examples and of dropout")
