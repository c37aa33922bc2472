"""Requests in, answers of OpenAI-compatible servers out: least busy server first, failures waited out or told to a person.

A server that does not answer (429, 502, 503, 504, connection lost, no answer in time) rests for a while, twice as long each time,
and the request goes to another one, or to the same once it is back; 500 a few times. Other refusals are the person's to mend.
"""

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import httpx2

from kidcore.errors import KidpipeError

_LOG = logging.getLogger(__name__)
_WAITED_OUT = (429, 502, 503, 504)
_AWAY = (502, 503, 504)
"""What a proxy answers while the server behind it is started anew, perhaps with another model."""
_MOST_FAULTS = 5
"""Answers 500 to one request: a dying engine gives a few, a request that breaks the server gives them for ever."""
_FIRST_REST_S = 0.25
_LONGEST_REST_S = 30.0
_CONNECT_S = 10.0
_COMPLETIONS = "/v1/completions"
_KEPT_S = 2.0
"""Idle connections are kept for less than the 5 s that vLLM keeps them: no request meets a connection just being closed."""

Answer = Mapping[str, Any]
Ask = Callable[[Mapping[str, Any]], Answer]


class Refused(Exception):
    """A status that asking again won't change, with the server's own words."""

    def __init__(self, url: str, status: int, message: str) -> None:
        super().__init__(f"{url} answers {status}: {message}")
        self.url, self.status, self.message = url, status, message


@dataclass
class _Server:
    url: str
    under_way: int = 0
    failures: int = 0
    """In a row."""
    rests_until: float = 0.0
    is_suspect: bool = False
    """Away meanwhile: what came back may hold another model."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Servers:
    """Servers of one model; used by many threads."""

    def __init__(
        self, urls: Sequence[str], timeout_s: float, patience_s: float, check: Callable[[str, Ask], None] | None = None
    ) -> None:
        """
        Args:
            timeout_s: how long an answer may take.
            patience_s: how long a request that failed may go without one.
            check: called with the URL of a server that was away, and the way to ask it, before it gets work again; it may raise.
        """
        self._servers = [_Server(url) for url in urls]
        self._timeout_s, self._patience_s, self._check = timeout_s, patience_s, check
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._sockets: WeakSet[socket.socket] = WeakSet()
        key = os.environ.get("VLLM_API_KEY") or os.environ.get("OPENAI_API_KEY")
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEPT_S),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # What runs on this machine is never behind the proxy that the environment names.
            mounts={"all://127.0.0.1": None, "all://localhost": None},
        )

    def get(self, url: str, path: str) -> Any:
        """The JSON at `path` of one server, waited for as for any other answer."""
        return self._until_answered([server for server in self._servers if server.url == url], "GET", path, None)

    def ask(self, body: Mapping[str, Any], url: str = "", *, rather: str = "") -> Answer:
        """The answer to a completion request, by the server `url` where one is named; `rather` by another as long as it works.

        Raises:
            Refused: the request itself is wrong.
            KidpipeError: no server answered for as long as patience lasts.
        """
        among = [server for server in self._servers if not url or server.url == url]
        answer: Answer = self._until_answered(among, "POST", _COMPLETIONS, body, rather)
        return answer

    def least_busy(self) -> str:
        """The URL to send a run of requests to that share their beginning."""
        with self._lock:
            return self._choose(self._servers).url

    def close(self) -> None:
        """Wake whatever waits, for an answer too, and close all connections."""
        self._closed.set()
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            _break_off(one)
        self._client.close()

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Know the sockets at which answers are waited for."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            found = info["return_value"].get_extra_info("socket")
            with self._lock:
                self._sockets.add(found)
            if self._closed.is_set():
                _break_off(found)

    def _until_answered(
        self, among: Sequence[_Server], method: str, path: str, body: Mapping[str, Any] | None, rather: str = ""
    ) -> Any:
        deadline: float | None = None
        faults = 0
        while True:
            with self._taken(among, rather) as server:
                try:
                    self._look_again(server)
                    response = self._client.request(method, server.url + path, json=body, extensions={"trace": self._trace})
                    if response.is_success:
                        server.failures = 0
                        return _json(response, server.url)
                    reason, message = f"answers {response.status_code}", _message(response)
                    faults += response.status_code == 500
                    if response.status_code not in _WAITED_OUT and not (response.status_code == 500 and faults <= _MOST_FAULTS):
                        raise Refused(server.url, response.status_code, message)
                    wait_s = _retry_after(response)
                    server.is_suspect |= response.status_code in _AWAY
                except httpx2.TransportError as error:
                    reason, wait_s = _reason(error, self._timeout_s), 0.0
                    server.is_suspect = True
                self._rest(server, reason, wait_s)
            # From the first failure on: an answer that broke off late has used up no patience with the other servers.
            deadline = deadline or time.monotonic() + self._patience_s
            if time.monotonic() >= deadline:
                raise KidpipeError(
                    f"the server {reason}" + (f", for {self._patience_s:g} s now" if self._patience_s else ""),
                    where=server.url,
                    fix="start it again and run the same command: finished shards are kept (engine.server_patience_s)",
                )

    def _look_again(self, server: _Server) -> None:
        with server.lock:
            if server.is_suspect and self._check is not None:
                self._check(server.url, lambda body: self._ask_once(server, body))
            server.is_suspect = False

    def _ask_once(self, server: _Server, body: Mapping[str, Any]) -> Answer:
        response = self._client.post(server.url + _COMPLETIONS, json=body, extensions={"trace": self._trace})
        if not response.is_success:
            raise httpx2.ReadError(f"{response.status_code}")  # not back yet
        answer: Answer = _json(response, server.url)
        return answer

    @contextmanager
    def _taken(self, among: Sequence[_Server], rather: str) -> Iterator[_Server]:
        with self._lock:
            server = self._choose(among, rather)
            server.under_way += 1
        try:
            while (rest := server.rests_until - time.monotonic()) > 0:
                if self._closed.wait(rest):
                    raise KidpipeError("the teacher's servers are asked no more", where=server.url, fix="run the command again")
            yield server
        finally:
            with self._lock:
                server.under_way -= 1

    @staticmethod
    def _choose(among: Sequence[_Server], rather: str = "") -> _Server:
        now = time.monotonic()

        def rank(server: _Server) -> tuple[float, bool, int]:
            is_preferred = server.url == rather and not server.failures
            return max(0.0, server.rests_until - now), not is_preferred, server.under_way

        return min(among, key=rank)

    def _rest(self, server: _Server, reason: str, wait_s: float) -> None:
        with self._lock:
            if server.rests_until <= time.monotonic():  # the first of many that fail together counts
                server.failures += 1
                longest = min(_LONGEST_REST_S, _FIRST_REST_S * 2 ** (server.failures - 1))
                # Not all clients at once: they would overload together what they overloaded together.
                server.rests_until = time.monotonic() + max(wait_s, longest * random.uniform(0.5, 1))
        _LOG.log(logging.WARNING if server.failures == 4 else logging.DEBUG, "%s %s; asking again", server.url, reason)


def _break_off(one: socket.socket) -> None:
    """End what another thread reads from it: closing wakes nobody, and it would wait as long as an answer may take."""
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


def _reason(error: Exception, timeout_s: float) -> str:
    if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
        return "cannot be reached"
    if isinstance(error, httpx2.TimeoutException):
        return f"gave no answer in {timeout_s:g} s"
    return "broke off its answer"


def _json(response: httpx2.Response, url: str) -> Any:
    try:
        return response.json()
    except ValueError:
        raise Refused(url, response.status_code, f"no JSON, but {_first_line(response)!r}") from None


def _first_line(response: httpx2.Response) -> str:
    return (response.text.strip().splitlines() or [response.reason_phrase])[0][:200]


def _retry_after(response: httpx2.Response) -> float:
    """Seconds that the server asks to be left alone."""
    try:
        return min(_LONGEST_REST_S, float(response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def _message(response: httpx2.Response) -> str:
    """The server's own words: vLLM's JSON, or the first line of whatever a proxy sent."""
    try:
        content = response.json()
        inner = content.get("error", content)
        return str(inner.get("message", inner) if isinstance(inner, dict) else inner)
    except (ValueError, AttributeError):
        return _first_line(response)
