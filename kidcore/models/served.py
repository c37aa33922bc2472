"""The URLs of vLLM servers and a tokenizer in; the model behind them, as stages know models, out.

A server says neither which weights it holds nor their digest. So a few fixed sequences are scored: a store remembers the scores
of each model it has met, and what gives others is another model, under whatever name and URL.
"""

import json
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kidcore.config.config import TeacherSettings
from kidcore.config.digests import FileDigests
from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.models.backends.served import ServedBackend
from kidcore.models.backends.served_client import Refused, Servers
from kidcore.models.backends.served_scores import are_same, fixed_scores
from kidcore.models.backends.served_wire import UNREADABLE, largest_top_k, whole_prompt
from kidcore.models.sources import ModelSource, Served, tokenizer_folder
from kidcore.models.teachers import is_url
from kidcore.models.tokenizer_files import TokenizerFiles
from kidcore.models.tokenizers import tokenizer_digest

_LOG = logging.getLogger(__name__)
_TIMEOUT_S, PATIENCE_S = 60.0, 5.0
"""For the first questions: a server that is not there is said at once, not waited for as in the middle of a build."""
_URL = re.compile(r"https?://[^\s,/#]+(/[^\s,#]*)?(#\S+)?")
_MOST = 1 << 20
"""More log-probabilities than any vocabulary has tokens: the refusal names the limit."""


def resolve_served(settings: TeacherSettings, digests: FileDigests, patience_s: float = PATIENCE_S) -> ModelSource:
    """Ask the servers what they hold.

    Args:
        patience_s: how long one that does not answer is asked again.

    Raises:
        KidpipeError: one can't be reached, is no vLLM server, or holds another model than the rest.
    """
    urls, name = _urls(settings.model)
    _require_fitting(settings)
    folder = tokenizer_folder(settings.tokenizer, settings.revision)
    files = TokenizerFiles(folder, digests)
    digest = str(files.remembered("digest", tokenizer_digest))
    tokens = files.remembered("ids", lambda tokenizer: max(tokenizer.get_vocab().values()) + 1)
    servers = Servers(urls, _TIMEOUT_S, patience_s)
    try:
        listed = [_told(url, partial(_model, servers, url, name)) for url in urls]
        model, length = listed[0][0], min(length for _, length in listed) - 1  # vLLM wants room for one token more
        for url, (other, _) in zip(urls, listed, strict=True):
            if other != model:
                raise _different(urls[0], url, f"{model!r} and {other!r}")
        scores = [_told(url, partial(fixed_scores, partial(servers.ask, url=url), model, tokens, length)) for url in urls]
        for url, found in zip(urls, scores, strict=True):
            if not are_same(scores[0], found):
                raise _different(urls[0], url, "their scores of the same sequences differ")
        limit = min(_told(url, partial(_limit, servers, url, model)) for url in urls)
        version = str(_told(urls[0], lambda: servers.get(urls[0], "/version")).get("version", ""))
    finally:
        servers.close()
    digests.know(f"served length {fingerprint(settings.model)}", str(length))
    identity = _identity(model, digest, scores[0], digests)
    digests.save()
    served = Served(urls, model, scores[0], tokens, length, limit, version, ServedBackend)
    return ModelSource(settings.model, folder, identity, length, _rows(folder, tokens), "", "", served)


def _urls(model: str) -> tuple[tuple[str, ...], str]:
    """The URLs without what all paths begin with, and the name of the model behind `#`, if one is given."""
    urls, names = [], set()
    for text in (part.strip() for part in model.split(",") if part.strip()):
        if not _URL.fullmatch(text):
            raise KidpipeError(
                f"not the URL of a server: {text!r}",
                where="teacher.model",
                fix="write http://HOST:8000, several with commas between",
            )
        url, _, name = text.partition("#")
        urls.append(url.rstrip("/").removesuffix("/v1").removesuffix("/v1/completions"))
        names |= {name} - {""}
    if len(names) > 1:
        raise KidpipeError("the URLs name different models", where=f"teacher.model = {model}", fix="name one model")
    return tuple(dict.fromkeys(urls)), next(iter(names), "")


def _require_fitting(settings: TeacherSettings) -> None:
    if not settings.tokenizer:
        raise KidpipeError(
            "a teacher behind a URL needs its tokenizer here",
            where="teacher.tokenizer",
            fix="set teacher.tokenizer to its Hugging Face name or a folder with tokenizer.json (--set teacher.tokenizer=...)",
        )
    if settings.dtype != "auto":
        raise KidpipeError(
            "the precision of a teacher behind a URL is the server's choice",
            where=f"teacher.dtype = {settings.dtype}",
            fix=f"leave it out, and start the server with --dtype {settings.dtype}",
        )


def _told(url: str, ask: Callable[[], Any]) -> Any:
    """What `ask` gives; what goes wrong is told as of a server that was not looked at before."""
    try:
        return ask()
    except (Refused, *UNREADABLE) as error:
        reason = error.message if isinstance(error, Refused) else str(error)
        status = f" ({error.status})" if isinstance(error, Refused) else ""
        raise KidpipeError(
            f"the server is no vLLM server that scores prompts{status}: {reason}",
            where=url,
            fix="start one with: vllm serve MODEL --max-logprobs 80",
        ) from error
    except KidpipeError as error:
        if is_url(error.where):
            raise KidpipeError(
                error.what, where=url, fix="start it, or check the URL: vllm serve MODEL --max-logprobs 80"
            ) from error
        raise


def _model(servers: Servers, url: str, wanted: str) -> tuple[str, int]:
    """Its name and the length of its longest sequence."""
    cards = {str(card["id"]): card for card in servers.get(url, "/v1/models")["data"]}
    names = [wanted] if wanted else list(cards)
    if len(names) != 1 or names[0] not in cards:
        what = f"the server has no model {wanted!r}" if wanted else f"the server has {len(cards)} models"
        raise KidpipeError(
            what, where=f"models there: {', '.join(sorted(cards))}", fix=f"write the one that is meant: {url}#NAME"
        )
    return names[0], int(cards[names[0]]["max_model_len"])


def _limit(servers: Servers, url: str, model: str) -> int:
    """Most log-probabilities a position, as the refusal of too many says."""
    try:
        servers.ask(whole_prompt(model, [0, 1], _MOST), url)
    except Refused as refused:
        limit = largest_top_k(refused.message)
        if limit is not None:
            return limit
        if "vocab" not in refused.message.lower():
            raise
    return _MOST


def _different(first: str, second: str, why: str) -> KidpipeError:
    return KidpipeError(
        f"the servers hold different models: {why}",
        where=f"{first}, {second}",
        fix="start all with one model, or name one of them",
    )


def _identity(model: str, tokenizer: str, scores: tuple[float, ...], digests: FileDigests) -> str:
    """That of the model met before under this name with these scores, up to rounding; else a new one."""
    fact = f"served {fingerprint([model, tokenizer])}"
    known: dict[str, list[float]] = json.loads(digests.recall(fact) or "{}")
    for identity, before in known.items():
        if are_same(before, scores):
            return identity
    identity = f"served:{model}@{fingerprint([model, tokenizer, [round(score * 10) for score in scores]])}"
    if known:
        _LOG.warning("another model than before answers under the name %s: what the earlier one made is not reused", model)
    digests.know(fact, json.dumps(known | {identity: list(scores)}))
    return identity


def _rows(folder: Path, tokens: int) -> int:
    """Rows of the output layer, where the tokenizer's folder says so."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        rows = config.get("text_config", config).get("vocab_size", 0)
    except (OSError, ValueError, AttributeError):
        rows = 0
    return max(rows if isinstance(rows, int) else 0, tokens)
