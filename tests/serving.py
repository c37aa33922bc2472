"""A model folder in, a real HTTP server that speaks vLLM over the reference engine out; it misbehaves on order."""

import json
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from kidcore.models.backends.base import ScoreRequest
from kidcore.models.backends.transformers import TransformersBackend

Trouble = Callable[[BaseHTTPRequestHandler], bool]
"""Does something to a request instead of answering it; True where it did."""


class ModelServer:
    """One server; `troubles` befall the next completion requests, one each."""

    def __init__(self, folder: Path, *, max_logprobs: int = 80, name: str = "teacher", by_position: bool = True) -> None:
        self.engine = TransformersBackend(folder, dtype="float32", device="cpu", batch_tokens=4096, max_length=512, verbose=False)
        self.max_logprobs, self.model, self.by_position = max_logprobs, name, by_position
        self.troubles: deque[Trouble] = deque()
        self.kinds: Counter[str] = Counter()
        """Completion requests answered, by kind."""
        self.under_way = self.most_under_way = 0
        self.connections: set[socket.socket] = set()
        self.port = 0
        self._lock = threading.Lock()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Answer at the port that it had before, if it had one."""
        handler = type("Handler", (_Handler,), {"model_server": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """Die: answers under way break off, connections are refused."""
        self._http.shutdown()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._http.server_close()
        self._thread.join()

    def complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and answer of a completion request, as vLLM 0.32 gives them."""
        ids = np.asarray(body["prompt"], dtype=np.int32)
        if body["model"] != self.model:
            return _error(404, f"The model `{body['model']}` does not exist.")
        for field in ("prompt_logprobs", "logprobs"):
            if body.get(field, 0) > self.max_logprobs:
                kind = "prompt logprobs" if field == "prompt_logprobs" else "sample logprobs"
                asked = f"Requested {kind} of {body[field]}"
                return _error(400, f"{asked}, which is greater than max allowed: {self.max_logprobs}")
        if len(ids) + body["max_tokens"] > self.engine.max_length + 1:
            return _error(400, "the prompt is too long")
        with self._lock:
            if "prompt_logprobs" in body:
                self.kinds["whole"] += 1
                return 200, _choice(prompt_logprobs=self._prompt_rows(ids, body["prompt_logprobs"]))
            if "allowed_token_ids" in body:
                self.kinds["position"] += 1
                return 200, _choice(logprobs=self._position(ids, body))
            self.kinds["answer"] += 1
            assert body["temperature"] == 0, "the reference engine draws otherwise"
            found = next(self.engine.generate([ids.tolist()], body["max_tokens"], body["stop_token_ids"]))
            ended = len(found) < body["max_tokens"]
            return 200, _choice(token_ids=[*found, *body["stop_token_ids"][: int(ended)]])

    def _prompt_rows(self, ids: np.ndarray, top_k: int) -> list[Any]:
        answer = next(self.engine.score([ScoreRequest(ids, 1)], top_k))
        return [None, *(_row(int(ids[place + 1]), answer, place, lambda token: str(token)) for place in range(len(ids) - 1))]

    def _position(self, ids: np.ndarray, body: dict[str, Any]) -> dict[str, Any]:
        token = body["allowed_token_ids"][0]
        answer = next(self.engine.score([ScoreRequest(np.append(ids, np.int32(token)), len(ids))], body["logprobs"]))
        row = _row(token, answer, 0, lambda token: f"token_id:{token}" if self.by_position else f"text {token}")
        return {"top_logprobs": [{key: entry["logprob"] for key, entry in row.items()}]}


class _Handler(BaseHTTPRequestHandler):
    model_server: ModelServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.model_server.connections.add(self.connection)

    def handle(self) -> None:
        with suppress(ConnectionError):  # the other end went away, or this server died
            super().handle()

    def finish(self) -> None:
        self.model_server.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        server = self.model_server
        card = {"id": server.model, "object": "model", "max_model_len": server.engine.max_length + 1}
        known = {"/v1/models": {"data": [card]}, "/version": {"version": "0.32.0"}}
        self.reply(200 if self.path in known else 404, known.get(self.path, {}))

    def do_POST(self) -> None:
        server = self.model_server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server._lock:
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            trouble = server.troubles.popleft() if server.troubles else None
        try:
            if trouble is None or not trouble(self):
                self.reply(*server.complete(body))
        finally:
            with server._lock:
                server.under_way -= 1

    def reply(self, status: int, content: Any, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def status(code: int) -> Trouble:
    """Answer with an error."""

    def trouble(handler: Any) -> bool:
        handler.reply(*_error(code, f"trouble {code}"))
        return True

    return trouble


def hang(handler: Any) -> bool:
    """Say nothing for two seconds, and then nothing."""
    time.sleep(2)
    handler.close_connection = True
    return True


def hang_up(handler: Any) -> bool:
    """Break off in the middle of an answer."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.close_connection = True
    return True


def _error(code: int, message: str) -> tuple[int, dict[str, Any]]:
    return code, {"error": {"message": message, "code": code}}


def _choice(**fields: Any) -> dict[str, Any]:
    return {"object": "text_completion", "choices": [{"index": 0, "text": "", **fields}]}


def _row(token: int, answer: Any, place: int, name: Callable[[int], str]) -> dict[str, dict[str, float]]:
    """The token that stands there first, then the likeliest; once where it is one of them."""
    row = {name(token): {"logprob": float(answer.actual_logprob[place])}}
    for other, logprob in zip(answer.ids[place].tolist(), answer.logprobs[place].tolist(), strict=True):
        row.setdefault(name(other), {"logprob": logprob})
    return row
