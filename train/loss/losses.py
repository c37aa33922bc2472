"""Stored teacher top-K and student masses in; the value of a divergence and its derivatives out.

Shapes: N positions, K stored token ids (padded), and one extra category, the tail: everything outside the stored ids.
Every divergence runs over those K + 1 categories (a truncated or renormalised one rewards leaking mass out of the
top-K), so it is non-negative, zero only where the masses agree, and a lower bound of the full-vocabulary one.
`p` is the teacher, `q` the student. At padding all four of p, q, log p, log q are 0, which makes each term 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# A teacher tail below this is rounding noise of 1 - sum(p) in float32; it stands inside a logarithm, so it is clamped.
MIN_TEACHER_TAIL = 1e-8
# The student's tail is a sum of exponentials, exact down to here.
_MIN_STUDENT_TAIL = 1e-34
# Stored log-probabilities of -inf (a vocabulary entry the teacher excludes) become this.
_MIN_LOGPROB = -100.0


@dataclass(frozen=True)
class Masses:
    """Student and teacher over K + 1 categories, float32; see `masses`."""

    log_p_NK: Tensor
    p_NK: Tensor
    p_tail_N: Tensor
    log_q_NK: Tensor
    q_NK: Tensor
    q_tail_N: Tensor
    is_gold_N: Tensor | None = None
    """Whether a position is one of gold SQL; None where nobody asks."""

    @property
    def log_p_tail_N(self) -> Tensor:
        return self.p_tail_N.clamp_min(MIN_TEACHER_TAIL).log()

    @property
    def log_q_tail_N(self) -> Tensor:
        return self.q_tail_N.clamp_min(_MIN_STUDENT_TAIL).log()


@dataclass(frozen=True)
class DivergenceSum:
    """Value D of a divergence and its derivatives in the student's masses, w = dD/dq.

    `a = q w` is kept for the stored ids, because w itself can overflow where q is near 0. With m = sum of a over all
    categories, the derivative in a logit z_v is a_v - q_v m inside the top-K and q_v (w_tail - m) outside it.
    w may be shifted by any constant: the shift cancels in both.
    """

    value_N: Tensor
    a_NK: Tensor
    a_tail_N: Tensor
    w_tail_N: Tensor


def masses(teacher: tuple[Tensor, Tensor, Tensor], log_q_NK: Tensor, q_tail_N: Tensor, is_gold_N: Tensor | None = None) -> Masses:
    """Join (stored log-probabilities [N, K], stored tail [N], is-stored [N, K]) with the student's.

    Stored log-probabilities are float16. They are rescaled to the mass that the float32 tail leaves, so that the teacher
    sums to 1 and the divergence cannot fall below 0.
    """
    logprobs_NK, tail_N, stored_NK = teacher
    zero = torch.zeros((), dtype=log_q_NK.dtype, device=log_q_NK.device)
    logprobs_NK = logprobs_NK.to(log_q_NK.dtype).clamp_min(_MIN_LOGPROB)
    tail_N = tail_N.to(log_q_NK.dtype).clamp(0.0, 1.0 - 1e-6)
    total_N = torch.where(stored_NK, logprobs_NK.exp(), zero).sum(-1).clamp_min(1e-30)
    log_p_NK = torch.where(stored_NK, logprobs_NK + (torch.log1p(-tail_N) - total_N.log())[:, None], zero)
    log_q_NK = torch.where(stored_NK, log_q_NK, zero)
    p_NK = torch.where(stored_NK, log_p_NK.exp(), zero)
    q_NK = torch.where(stored_NK, log_q_NK.exp(), zero)
    return Masses(log_p_NK, p_NK, tail_N, log_q_NK, q_NK, q_tail_N, is_gold_N)


def forward_kl(x: Masses) -> DivergenceSum:
    """KL(p || q) = sum p log(p/q); Hinton et al. 2015 (arXiv 1503.02531). dD/dq = -p/q."""
    value_N = (x.p_NK * (x.log_p_NK - x.log_q_NK)).sum(-1) + x.p_tail_N * (x.log_p_tail_N - x.log_q_tail_N)
    return DivergenceSum(value_N, -x.p_NK, -x.p_tail_N, -x.p_tail_N / x.q_tail_N.clamp_min(_MIN_STUDENT_TAIL))


def reverse_kl(x: Masses) -> DivergenceSum:
    """KL(q || p) = sum q log(q/p); the KID paper (arXiv 2410.11371) and MiniLLM (2306.08543). dD/dq = log(q/p) + 1."""
    a_NK = x.q_NK * (x.log_q_NK - x.log_p_NK)
    w_tail_N = x.log_q_tail_N - x.log_p_tail_N
    a_tail_N = x.q_tail_N * w_tail_N
    return DivergenceSum(a_NK.sum(-1) + a_tail_N, a_NK, a_tail_N, w_tail_N)


def jensen_shannon(x: Masses, beta: float) -> DivergenceSum:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q; GKD (arXiv 2306.13649, eq. 1).

    dD/dq = (1 - beta) log(q/m): the other terms add up to a constant.
    """
    log_m_NK = _log_mix(x.log_p_NK, x.log_q_NK, beta)
    log_m_tail_N = _log_mix(x.log_p_tail_N, x.log_q_tail_N, beta)
    w_NK, w_tail_N = (1 - beta) * (x.log_q_NK - log_m_NK), (1 - beta) * (x.log_q_tail_N - log_m_tail_N)
    a_NK, a_tail_N = x.q_NK * w_NK, x.q_tail_N * w_tail_N
    teacher_N = (x.p_NK * (x.log_p_NK - log_m_NK)).sum(-1) + x.p_tail_N * (x.log_p_tail_N - log_m_tail_N)
    return DivergenceSum(beta * teacher_N + a_NK.sum(-1) + a_tail_N, a_NK, a_tail_N, w_tail_N)


def total_variation(x: Masses) -> DivergenceSum:
    """Half the sum of |p - q|; f-distill (arXiv 2307.15190). dD/dq = sign(q - p) / 2."""
    value_N = 0.5 * ((x.p_NK - x.q_NK).abs().sum(-1) + (x.p_tail_N - x.q_tail_N).abs())
    w_tail_N = 0.5 * torch.sign(x.q_tail_N - x.p_tail_N)
    return DivergenceSum(value_N, 0.5 * x.q_NK * torch.sign(x.q_NK - x.p_NK), x.q_tail_N * w_tail_N, w_tail_N)


def skew_forward_kl(x: Masses, skew: float) -> DivergenceSum:
    """KL(p || m), m = skew p + (1 - skew) q; DistiLLM (arXiv 2402.03898, eq. 4). dD/dq = -(1 - skew) p/m."""
    log_m_NK = _log_mix(x.log_p_NK, x.log_q_NK, skew)
    log_m_tail_N = _log_mix(x.log_p_tail_N, x.log_q_tail_N, skew)
    value_N = (x.p_NK * (x.log_p_NK - log_m_NK)).sum(-1) + x.p_tail_N * (x.log_p_tail_N - log_m_tail_N)
    a_NK = -(1 - skew) * x.p_NK * (x.log_q_NK - log_m_NK).exp()
    w_tail_N = -(1 - skew) * x.p_tail_N * (-log_m_tail_N).exp()
    return DivergenceSum(value_N, a_NK, x.q_tail_N * w_tail_N, w_tail_N)


def skew_reverse_kl(x: Masses, skew: float) -> DivergenceSum:
    """KL(q || m), m = (1 - skew) p + skew q; DistiLLM (arXiv 2402.03898, eq. 5). dD/dq = log(q/m) + 1 - skew q/m."""
    ratio_NK = x.log_q_NK - _log_mix(x.log_p_NK, x.log_q_NK, 1 - skew)
    ratio_tail_N = x.log_q_tail_N - _log_mix(x.log_p_tail_N, x.log_q_tail_N, 1 - skew)
    value_N = (x.q_NK * ratio_NK).sum(-1) + x.q_tail_N * ratio_tail_N
    w_tail_N = ratio_tail_N - skew * ratio_tail_N.exp()
    return DivergenceSum(value_N, x.q_NK * (ratio_NK - skew * ratio_NK.exp()), x.q_tail_N * w_tail_N, w_tail_N)


def entropy_kl(x: Masses) -> DivergenceSum:
    """e KL(p || q) + (1 - e) KL(q || p), e = 1 - exp(-H(p)): forward where the teacher holds several tokens likely.

    Entropy-aware distillation (arXiv 2603.07079): reverse KL picks one of the answers that a teacher in doubt holds possible.
    """
    e_N, forward, reverse = teacher_doubt(x), forward_kl(x), reverse_kl(x)
    return DivergenceSum(
        torch.lerp(reverse.value_N, forward.value_N, e_N),
        torch.lerp(reverse.a_NK, forward.a_NK, e_N[:, None]),
        torch.lerp(reverse.a_tail_N, forward.a_tail_N, e_N),
        torch.lerp(reverse.w_tail_N, forward.w_tail_N, e_N),
    )


def teacher_doubt(x: Masses) -> Tensor:
    """1 - exp(-H), H the teacher's entropy over the stored ids and the tail: 0 where one token is possible, 1/2 at two alike."""
    entropy_N = -(x.p_NK * x.log_p_NK).sum(-1) - x.p_tail_N * x.log_p_tail_N
    return -torch.expm1(-entropy_N.clamp_min(0.0))


def _log_mix(log_p: Tensor, log_q: Tensor, share_of_p: float) -> Tensor:
    return torch.logaddexp(log_p + math.log(share_of_p), log_q + math.log1p(-share_of_p))


Divergence = Callable[[Masses], DivergenceSum]


def divergence(name: str, parameter: float = 0.5) -> Divergence:
    """The divergence called `name`; `parameter` in (0, 1) is beta of jensen_shannon and the skew of the skewed ones."""
    plain: dict[str, Divergence] = {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "total_variation": total_variation,
        "entropy_kl": entropy_kl,
    }
    if name in plain:
        return plain[name]
    assert 0 < parameter < 1, f"{name} needs a parameter between 0 and 1"
    mixed = {"jensen_shannon": jensen_shannon, "skew_forward_kl": skew_forward_kl, "skew_reverse_kl": skew_reverse_kl}
    chosen = mixed[name]
    return lambda x: chosen(x, parameter)
