"""A teacher as a configuration names it in; the model, on this machine or behind URLs, out."""

from kidcore.config.config import TeacherSettings
from kidcore.config.digests import FileDigests
from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.models.sources import UNBOUNDED, ModelSource, resolve


def is_url(model: str) -> bool:
    """Whether a setting names servers, not a folder or a name of the Hub."""
    return model.strip().lower().startswith(("http://", "https://"))


def resolve_teacher(settings: TeacherSettings, digests: FileDigests, *, is_waited_for: bool = True) -> ModelSource:
    """The teacher of a configuration, on this machine or behind URLs. Raises KidpipeError where it can't be found.

    Args:
        is_waited_for: whether a server that does not answer is asked again for a few seconds.
    """
    if is_url(settings.model):
        # Only here: the HTTP client takes a fifth of a second to load, and models on this machine need none.
        from kidcore.models.served import PATIENCE_S, resolve_served

        return resolve_served(settings, digests, PATIENCE_S if is_waited_for else 0.0)
    if settings.tokenizer:
        raise KidpipeError(
            "a teacher on this machine brings its own tokenizer",
            where=f"teacher.tokenizer = {settings.tokenizer}",
            fix="leave it out, or name a URL in teacher.model",
        )
    return resolve(settings.model, settings.revision, digests=digests)


def known_length(model: str, digests: FileDigests) -> int:
    """Tokens of the longest sequence that these servers took when they were last asked; UNBOUNDED where they never were."""
    return int(digests.recall(f"served length {fingerprint(model)}") or UNBOUNDED)


def require_top_k(model: ModelSource, top_k: int) -> None:
    """Refuse more log-probabilities than a served model's servers give."""
    if model.served is not None and top_k > model.served.max_top_k:
        raise KidpipeError(
            f"K = {top_k} is more than the {model.served.max_top_k} log-probabilities a position that the server gives",
            where=", ".join(model.served.urls),
            fix=f"start it with --max-logprobs {top_k + 8}, or lower score.top_k and predict.top_k",
        )
