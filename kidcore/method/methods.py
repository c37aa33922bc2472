"""Every training method on one page: its objective, what it reads, which settings it looks at, and whom it asks in training.

x is a prompt, y gold SQL, p the teacher, q the student. Divergences are sums over the positions of a sequence (its EOS
included), each side conditioned on that sequence's own prefix, over the teacher's top-K and the tail outside it. Gold
weight w is `train.mle_weight`, weight v of the divergence `train.kd_weight`; both terms are means over their tokens.

sft         -log q(y | x)
seqkd       -log q(z | x), z the teacher's own answer, stored by the stage `generate` (Kim & Rush 2016, arXiv 1606.07947,
            section 3.2; greedy where they search with a beam)
fkd         w * -log q(y | x) + v * KL(p || q) on y (Hinton et al. 2015, word by word)
rkd         w * -log q(y | x) + v * KL(q || p) on y
f-distill   w * -log q(y | x) + v * TV(p, q) on y (Wen et al. 2023, arXiv 2307.15190; there on samples, here on gold)
imitkd      v * KL(p || q) on s, s = y with probability b_i, else drawn from q(. | x) (Lin et al. 2020, arXiv 2009.07253:
            "ImitKD + full"; their cross-entropy with p is this divergence and a constant). b_i = r ** (i / I) at step i
            of I, r = `train.oracle_end`; the authors' code has r = 1/200 for translation and 1/10 for summaries, and takes the
            student's likeliest tokens (here: `train.rollout_temperature = 0`)
gkd         v * JSD_beta(p || q) on s, s from q(. | x) with probability lambda = `train.imperfect_share`, else y
            (Agarwal et al. 2024, arXiv 2306.13649; lambda is drawn for each example, there for each batch)
kid         w * -log q(y | x) + v * KL(q || p) on y and on y', y' = y with holes that a model filled, stored by the build
            (Zhong et al. 2024, arXiv 2410.11371; there on y' alone, made afresh in each batch: `train.gold_share = 0`)
kid-online  w * -log q(y | x) + v * KL(q || p) on y', as in the paper: the student of the moment fills fresh holes in one forward
            pass, the teacher scores

opd         v * KL(q || p) on s, s an answer of the start of the run, made and scored once by the build (Lightning OPD 2026, arXiv
            2604.13010: on-policy distillation with the teacher out of the loop; there start and scores come from one teacher)

seqkd may leave out answers whose result is not gold's (`train.answers = correct`: rejection sampling, as in Yuan et al. 2023,
arXiv 2308.01825). kid and opd may choose among an example's queries by what became of them when they were executed
(`train.view_choice`): one that executes and gives another result than gold is the error that a student makes. Gold and
imperfect SQL may have a divergence each (`train.gold_divergence`), and positions may count more than others
(`train.position_weight`): train/loss/weights.py has both with their sources.

The papers of imitkd, gkd and opd have no maximum-likelihood term; `train.on_policy_mle` adds one.
"""

from dataclasses import dataclass
from typing import Any

from kidcore.config.train_settings import Method, TrainSettings
from kidcore.errors import KidpipeError


@dataclass(frozen=True)
class MethodTraits:
    """A row of the table: what the code needs to know of a method."""

    divergence: str | None
    """What `train.divergence = auto` means; None without one."""
    settings: frozenset[str]
    """Of the trainer's settings that not all methods look at, those that it looks at."""
    gold: str = "ingest"
    """The stage whose rows give its gold SQL: with the teacher's distributions where that is gold_score."""
    imperfect: str = ""
    """The stage whose views are taught beside gold, or in its place, as `imperfect_share` and `gold_share` say."""
    answers: str = ""
    """The stage whose sequences are taught in the place of gold; epochs take turns through its samples."""
    gold_share: float = 0.0
    """What `train.gold_share = auto` means."""
    mle: str = "mle_weight"
    """The setting that weighs maximum likelihood on gold."""
    is_online: bool = False
    """Whether the student makes sequences and the teacher scores them during training."""
    is_on_policy: bool = False
    """Whether those sequences are the student's own answers."""

    @property
    def stage(self) -> str:
        """The last data stage whose shards it reads."""
        return self.answers or self.imperfect or self.gold

    @property
    def fills_holes(self) -> bool:
        """Whether the student fills fresh holes in gold during training."""
        return self.is_online and not self.is_on_policy

    @property
    def online_sections(self) -> tuple[str, ...]:
        """Sections of the configuration that decide what it does with the teacher during training."""
        if not self.is_online:
            return ()
        return ("teacher", "score", "mask", "predict", "verify") if self.fills_holes else ("teacher", "score")


_DIVERGENCE = frozenset({"kd_weight", "divergence", "divergence_parameter", "position_weight", "position_gain"})
_STORED = _DIVERGENCE | {"mle_weight"}
_VIEWS = frozenset({"views_per_step", "imperfect_share", "gold_share", "gold_divergence"})
_MIXED = _STORED | _VIEWS
_STORED_VIEWS = frozenset({"view_choice"})
_ROLLOUTS = _DIVERGENCE | {
    *("on_policy_mle", "gold_share", "gold_divergence"),
    *("rollout_tokens", "rollout_temperature", "rollout_backend"),
}

ROLLOUTS = "rollout_score"
"""The stage whose views are a student's own answers."""
OUTCOMES = {"score": "outcome", "rollout_score": "rollout_outcome", "generate": "generate_outcome"}
"""By the stage whose queries are taught, the one that says what became of them when they were executed."""

METHODS: dict[Method, MethodTraits] = {
    "sft": MethodTraits(None, frozenset()),
    "seqkd": MethodTraits(None, frozenset({"answers"}), answers="generate"),
    "fkd": MethodTraits("forward_kl", _STORED, gold="gold_score"),
    "rkd": MethodTraits("reverse_kl", _STORED, gold="gold_score"),
    "f-distill": MethodTraits("total_variation", _STORED, gold="gold_score"),
    "imitkd": MethodTraits("forward_kl", _ROLLOUTS | {"oracle_end"}, mle="on_policy_mle", is_online=True, is_on_policy=True),
    "gkd": MethodTraits(
        "jensen_shannon", _ROLLOUTS | {"imperfect_share"}, mle="on_policy_mle", is_online=True, is_on_policy=True
    ),
    "kid": MethodTraits(
        "reverse_kl", _MIXED | _STORED_VIEWS | {"rollout_share"}, gold="gold_score", imperfect="score", gold_share=1.0
    ),
    "kid-online": MethodTraits("reverse_kl", _MIXED, is_online=True),
    "opd": MethodTraits(
        "reverse_kl",
        _DIVERGENCE | _VIEWS | _STORED_VIEWS | {"on_policy_mle"},
        gold="gold_score",
        imperfect="rollout_score",
        mle="on_policy_mle",
    ),
}
_OWN = frozenset[str]().union(*(traits.settings for traits in METHODS.values()))


def looks_at(method: Method, name: str) -> bool:
    """Whether the losses of `method` can depend on the trainer's setting `name`."""
    return name not in _OWN or name in METHODS[method].settings


def settings_used(settings: TrainSettings) -> dict[str, Any]:
    """The identity settings away from their default that the method looks at."""
    return {name: value for name, value in settings.identity().items() if looks_at(settings.method, name)}


def stages_read(settings: TrainSettings) -> tuple[str, ...]:
    """The stages whose shards a run of these settings opens."""
    traits = METHODS[settings.method]
    gold = () if traits.imperfect and not is_mixture(settings) else (traits.gold,)
    answers = (ROLLOUTS,) if mixes_rollouts(settings) else ()
    taught = [name for name in (traits.imperfect, *answers, traits.answers) if name]
    outcomes = [OUTCOMES[name] for name in taught] if chooses_views(settings) or takes_correct_answers(settings) else []
    return tuple(dict.fromkeys(["ingest", *gold, *taught, *outcomes]))


def chooses_views(settings: TrainSettings) -> bool:
    """Whether it matters to a run what became of imperfect SQL when it was executed."""
    return settings.view_choice != "all" and "view_choice" in METHODS[settings.method].settings


def takes_correct_answers(settings: TrainSettings) -> bool:
    """Whether answers whose result is not gold's are left out (rejection sampling)."""
    return settings.answers == "correct" and "answers" in METHODS[settings.method].settings


def last_stage(settings: TrainSettings) -> str:
    """The last data stage of a run's own: up to it a build makes all that it reads, but for answers that it mixes in."""
    traits = METHODS[settings.method]
    return OUTCOMES[traits.answers] if takes_correct_answers(settings) else traits.stage


def built_until(settings: TrainSettings) -> str:
    """The stages, with commas between, up to which a build makes all that a run reads."""
    return ",".join([last_stage(settings), *([ROLLOUTS] if mixes_rollouts(settings) else [])])


def mixes_rollouts(settings: TrainSettings) -> bool:
    """Whether stored answers of a student take the place of filled queries in a share of the examples."""
    return settings.rollout_share > 0 and "rollout_share" in METHODS[settings.method].settings


def gold_weight(settings: TrainSettings) -> float:
    """The weight of maximum likelihood under `settings`."""
    traits = METHODS[settings.method]
    if traits.divergence is None:
        return 1.0
    return float(getattr(settings, traits.mle))


def require_objective(settings: TrainSettings) -> None:
    """Raise KidpipeError where both weights are 0: a run would read all of its data and change nothing."""
    traits = METHODS[settings.method]
    if traits.divergence is not None and not (gold_weight(settings) or settings.kd_weight):
        raise KidpipeError(
            "there is nothing to learn: both weights of the objective are 0",
            where=f"train.kd_weight = 0, train.{traits.mle} = 0, method {settings.method}",
            fix="kidpipe train --set train.kd_weight=1, or method sft for gold alone",
        )


def gold_share(settings: TrainSettings) -> float:
    """The share of examples whose gold SQL carries the divergence beside their imperfect SQL."""
    return METHODS[settings.method].gold_share if settings.gold_share == "auto" else settings.gold_share


def is_mixture(settings: TrainSettings) -> bool:
    """Whether a method that reads imperfect views also teaches the divergence on gold."""
    lacks_views = chooses_views(settings) and settings.view_choice == "only_plausible"
    return settings.imperfect_share < 1 or gold_share(settings) > 0 or lacks_views
