"""Every training method on one page: its objective, what it reads, and whether it asks a teacher during training.

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

The papers of imitkd and gkd have no maximum-likelihood term; `train.on_policy_mle` adds one.
"""

from dataclasses import dataclass

from kidcore.config.config import Method, TrainSettings


@dataclass(frozen=True)
class Traits:
    """What the code needs to know of a method."""

    stage: str
    """The last data stage whose shards it reads."""
    divergence: str | None
    """What `train.divergence = auto` means."""
    is_online: bool = False
    """Whether the student makes sequences and the teacher scores them during training."""
    is_on_policy: bool = False
    """Whether those sequences are the student's own answers."""


METHODS: dict[Method, Traits] = {
    "sft": Traits("ingest", None),
    "seqkd": Traits("generate", None),
    "fkd": Traits("gold_score", "forward_kl"),
    "rkd": Traits("gold_score", "reverse_kl"),
    "f-distill": Traits("gold_score", "total_variation"),
    "imitkd": Traits("ingest", "forward_kl", is_online=True, is_on_policy=True),
    "gkd": Traits("ingest", "jensen_shannon", is_online=True, is_on_policy=True),
    "kid": Traits("score", "reverse_kl"),
    "kid-online": Traits("ingest", "reverse_kl", is_online=True),
}


def gold_weight(settings: TrainSettings) -> float:
    """The weight of maximum likelihood under `settings`."""
    traits = METHODS[settings.method]
    if traits.divergence is None:
        return 1.0
    return settings.on_policy_mle if traits.is_on_policy else settings.mle_weight


def gold_share(settings: TrainSettings) -> float:
    """The share of examples whose gold SQL carries the divergence beside their imperfect SQL."""
    if settings.gold_share == "auto":
        return 1.0 if settings.method == "kid" else 0.0
    return settings.gold_share
