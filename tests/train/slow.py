"""Every method the slow way: one sequence a forward pass, dense logits, losses by their textbook formulas, plain autograd.

What is shared with the trainer is what does not decide the objective: the order of examples, the draw of a mixture, the
choice of masked positions, the schedule. The optimiser is plain gradient descent: AdamW divides by the size of a gradient,
and so makes whole steps of what is rounding where gradients are small. Shapes: n supervised positions, V vocabulary.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from kidcore.config.seeds import row_rng
from kidcore.config.train_settings import TrainSettings
from kidcore.method.masking import choose
from kidcore.method.methods import gold_share
from tests.train.small import EOS
from train.data.dataset import Dataset, Source
from train.data.sampler import is_drawn
from train.online.setup import OnlineSetup
from train.schedule import learning_rate

DIVERGENCES = {
    "fkd": "forward_kl",
    "imitkd": "forward_kl",
    "rkd": "reverse_kl",
    "kid": "reverse_kl",
    "kid-online": "reverse_kl",
    "opd": "reverse_kl",
    "f-distill": "total_variation",
    "gkd": "jensen_shannon",
}


@dataclass
class Sequence:
    """One SQL sequence with the EOS behind it. `teacher` has ids, log-probabilities and the tail of each position."""

    sql: list[int]
    is_imitated: bool
    teacher: list[tuple[list[int], list[float], float]] | None
    is_gold: bool = False


def plain_descent(model: nn.Module, _settings: TrainSettings) -> torch.optim.SGD:
    """In the place of train.schedule.make_optimizer."""
    return torch.optim.SGD(model.parameters(), lr=0.0)


class SlowTrainer:
    """Trains a copy of the student for as many steps as the settings say."""

    def __init__(self, settings: TrainSettings, source: Source, student: Path, online: OnlineSetup | None = None) -> None:
        self.settings, self.online = settings, online
        self.model: Any = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32).train()
        self.teacher: Any = None
        if online is not None:
            self.teacher = AutoModelForCausalLM.from_pretrained(online.teacher.path, dtype=torch.float32).eval()
        self.data = Dataset(source, settings)
        self.rows = {name: _rows(paths) for name, paths in _files(source).items()}

    def train(self) -> nn.Module:
        optimizer = plain_descent(self.model, self.settings)
        steps = self.data.num_steps
        for step, examples in enumerate(islice(self.data.steps(), steps), start=1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.settings, step - 1, steps)
            nlls, divergences = [], []
            for position, example in enumerate(examples, start=(step - 1) * self.settings.batch_size):
                epoch = position // self.data.num_examples
                prompt = self.rows["ingest"][example.example_id]["prompt_ids"]
                for sequence in self.sequences(example.example_id, epoch, step):
                    log_q_nV = self.log_probabilities(self.model, prompt, sequence.sql)
                    if sequence.is_imitated:
                        nlls += [-log_q_V[token] for log_q_V, token in zip(log_q_nV, [*sequence.sql, EOS], strict=True)]
                    if sequence.teacher is not None:
                        pairs = zip(log_q_nV, sequence.teacher, strict=True)
                        divergences += [self.divergence(log_q_V, *stored, sequence.is_gold) for log_q_V, stored in pairs]
            loss = torch.zeros(())
            if nlls:
                loss = loss + self.gold_weight() * torch.stack(nlls).mean()
            if divergences:
                loss = loss + self.settings.kd_weight * torch.stack(divergences).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
            optimizer.step()
        return self.model  # type: ignore[no-any-return]

    def gold_weight(self) -> float:
        if self.settings.method in ("sft", "seqkd"):
            return 1.0
        return self.settings.on_policy_mle if self.settings.method in ("gkd", "imitkd", "opd") else self.settings.mle_weight

    @staticmethod
    def log_probabilities(model: Any, prompt: list[int], sql: list[int]) -> Tensor:
        """[n, V] at the SQL positions and the EOS."""
        logits: Tensor = model(torch.tensor([prompt + sql])).logits[0]
        return torch.log_softmax(logits[len(prompt) - 1 :], -1)

    def sequences(self, example_id: str, epoch: int, step: int) -> list[Sequence]:
        """What the method teaches of one example in one step."""
        s, method = self.settings, self.settings.method
        gold = self.rows["ingest"][example_id]["gold_ids"]
        gold_first = [Sequence(gold, True, None)] if self.gold_weight() else []
        if method == "sft":
            return [Sequence(gold, True, None)]
        if method == "seqkd":
            name = self.shown("generate", "generate_outcome", example_id, epoch)
            return [Sequence(self.rows[name][example_id]["generated_ids"], True, None)]
        if method in ("fkd", "rkd", "f-distill"):
            return [Sequence(gold, True, self.stored("gold_score", example_id))]
        if method == "opd":
            name = self.shown("rollout_score", "rollout_outcome", example_id, epoch)
            answer = Sequence(self.rows[name][example_id]["imperfect_ids"], False, self.stored(name, example_id))
            return [*gold_first, answer]
        if method == "kid":
            from_start = s.rollout_share > 0 and is_drawn(s.rollout_share, "rollout", s.seed, epoch, example_id)
            stages = ("rollout_score", "rollout_outcome") if from_start else ("score", "outcome")
            name = self.shown(*stages, example_id, epoch)
            on_gold = Sequence(gold, True, self.stored("gold_score", example_id), is_gold=True)
            if not name or not is_drawn(s.imperfect_share, "imperfect", s.seed, epoch, example_id):
                return [on_gold]
            view = Sequence(self.rows[name][example_id]["imperfect_ids"], False, self.stored(name, example_id))
            if is_drawn(gold_share(s), "gold", s.seed, epoch, example_id):
                return [on_gold, view]
            return [*gold_first, view]
        prompt = self.rows["ingest"][example_id]["prompt_ids"]
        if method == "kid-online":
            refilled = self.refill(prompt, gold, example_id, step)
            return [*gold_first, Sequence(refilled, False, self.asked(prompt, refilled))]
        share = 1 - s.oracle_end ** (step / self.data.num_steps) if method == "imitkd" else s.imperfect_share
        if not is_drawn(share, "rollout", s.seed, step, example_id):
            return [Sequence(gold, bool(gold_first), self.asked(prompt, gold))]
        answer = self.decode(prompt)
        return [*gold_first, Sequence(answer, False, self.asked(prompt, answer))]

    def shown(self, stage: str, outcome: str, example_id: str, epoch: int) -> str:
        """The view (of two) that an example shows in an epoch, as `score0`; nothing where it has none to show."""
        wanted, choice = {"generate": True}.get(stage, False), self.settings.view_choice
        chooses = self.settings.answers == "correct" if stage == "generate" else choice != "all"
        became = [self.rows[f"{outcome}{view}"][example_id] for view in range(2)]
        chosen = [view for view in range(2) if became[view]["executes"] and became[view]["same_result"] == wanted]
        if stage == "generate":
            chosen = [view for view in chosen if self.rows[f"generate{view}"][example_id]["reason"] is None]
        if not chooses or (not chosen and choice == "prefer_plausible"):
            chosen = [0, 1]
        return f"{stage}{chosen[epoch % len(chosen)]}" if chosen else ""

    def stored(self, name: str, example_id: str) -> list[tuple[list[int], list[float], float]]:
        row = self.rows[name][example_id]
        ends = np.cumsum(row["topk_count"])
        slices = [slice(end - count, end) for end, count in zip(ends, row["topk_count"], strict=True)]
        return [(row["topk_ids"][s], row["topk_logprobs"][s], tail) for s, tail in zip(slices, row["tail"], strict=True)]

    @torch.no_grad()
    def asked(self, prompt: list[int], sql: list[int]) -> list[tuple[list[int], list[float], float]]:
        """The teacher's likeliest `top_k`, in half precision as it is stored, and the mass of all the others."""
        assert self.online is not None
        found = []
        for log_p_V in self.log_probabilities(self.teacher, prompt, sql):
            ids = log_p_V.argsort(descending=True)[: self.online.score.top_k]
            kept = log_p_V[ids].numpy()
            found.append((ids.tolist(), kept.astype(np.float16).tolist(), float(1 - np.exp(kept.astype(np.float64)).sum())))
        return found

    @torch.no_grad()
    def decode(self, prompt: list[int]) -> list[int]:
        """Greedy, without a cache. An answer that does not end loses its last token, which nothing is predicted from."""
        assert self.online is not None
        answer: list[int] = []
        while len(answer) < self.settings.rollout_tokens:
            token = int(self.model(torch.tensor([prompt + answer])).logits[0, -1].argmax())
            if token in self.online.stop_ids:
                return answer
            answer.append(token)
        return answer[:-1]

    @torch.no_grad()
    def refill(self, prompt: list[int], gold: list[int], example_id: str, step: int) -> list[int]:
        """Gold with fresh holes that the student fills in one forward pass over prompt and masked gold."""
        assert self.online is not None
        mask, tokens = self.online.mask, self.online.tokens
        rng = row_rng(mask.seed, f"mask.{mask.strategy}", example_id, step)
        holes = choose(mask, len(gold), rng).tolist()
        masked = [tokens.mask_id if position in holes else token for position, token in enumerate(gold)]
        log_q_nV = self.log_probabilities(self.model, prompt, masked)
        log_q_nV[:, list(tokens.banned)] = -torch.inf
        best = log_q_nV.argmax(-1).tolist()
        return [best[position] if position in holes else token for position, token in enumerate(gold)]

    def divergence(self, log_q_V: Tensor, ids: list[int], logprobs: list[float], tail: float, is_gold: bool) -> Tensor:
        """Over the stored ids and one category for all others."""
        others = torch.ones(len(log_q_V), dtype=torch.bool)
        others[ids] = False
        log_q = torch.cat([log_q_V[ids], log_q_V[others].logsumexp(0)[None]])
        log_p = torch.tensor([*logprobs, np.log(max(tail, 1e-8))])
        p, q = torch.tensor([*np.exp(logprobs), tail]).float(), log_q.exp()
        names = (self.settings.gold_divergence if is_gold else "auto", self.settings.divergence)
        name = next((name for name in names if name != "auto"), DIVERGENCES[self.settings.method])
        return self.weight(p, q.detach()) * self.plain_divergence(name, p, log_p, q, log_q)

    def weight(self, p: Tensor, q: Tensor) -> float:
        """How much a position counts."""
        gain = self.settings.position_gain - 1
        if self.settings.position_weight == "entropy":
            return 1 + gain * (1 - float(torch.exp((p * p.clamp_min(1e-30).log()).sum())))
        if self.settings.position_weight == "sure_and_wrong":
            return 1 + gain * max(0.0, float((q - p).max()))
        return 1.0

    @staticmethod
    def plain_divergence(name: str, p: Tensor, log_p: Tensor, q: Tensor, log_q: Tensor) -> Tensor:
        if name == "forward_kl":
            return (p * (log_p - log_q)).sum()
        if name == "reverse_kl":
            return (q * (log_q - log_p)).sum()
        if name == "total_variation":
            return 0.5 * (p - q).abs().sum()
        log_m = torch.log(0.5 * p + 0.5 * q)
        if name == "skew_forward_kl":
            return (p * (log_p - log_m)).sum()
        if name == "skew_reverse_kl":
            return (q * (log_q - log_m)).sum()
        return 0.5 * (p * (log_p - log_m)).sum() + 0.5 * (q * (log_q - log_m)).sum()


def _files(source: Source) -> dict[str, list[Path]]:
    named: dict[str, list[Path]] = {}
    for part in source.parts:
        for stage in ("ingest", "gold_score"):
            named.setdefault(stage, []).append(part.one(stage))
        for stage in ("score", "rollout_score", "generate", "outcome", "rollout_outcome", "generate_outcome"):
            for view, path in enumerate(part.of(stage)):
                named.setdefault(f"{stage}{view}", []).append(path)
    return named


def _rows(paths: list[Path]) -> dict[str, dict[str, Any]]:
    return {row["example_id"]: row for path in paths for row in pq.read_table(path).to_pylist()}
