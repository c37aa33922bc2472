"""A stand-in for the Hugging Face Hub on the loopback: repositories made, commits with small and large files taken."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_this_test"
_LARGE = (".safetensors", ".parquet")


@dataclass
class Hub:
    """What was uploaded: by `model/owner/name`, whether it is private, and its files."""

    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """Large files by their SHA-256."""
    commits: int = 0


@contextmanager
def stand_in() -> Iterator[Hub]:
    """A Hub that knows one token, until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_PUT(self) -> None:
        self.hub.stored[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._answer({"transfer": "basic", "objects": [self._upload_to(x) for x in json.loads(body)["objects"]]})
        elif match := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/preupload/main", self.path):
            asked = json.loads(body)["files"]
            modes = [{"path": x["path"], "uploadMode": _mode(x["path"]), "shouldIgnore": False} for x in asked]
            self._answer({"files": modes})
        elif match := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/commit/main", self.path):
            self._commit(f"{match[1]}/{match[2]}", body)
        else:
            self._answer({"error": f"no such place: {self.path}"}, 404)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name.startswith("somebody/"):
            self._answer({"error": "You don't have the rights to create a model under the namespace somebody"}, 403)
            return
        kind = asked.get("type", "model")
        self.hub.private.setdefault(f"{kind}/{name}", asked.get("visibility") == "private")
        prefix = "datasets/" if kind == "dataset" else ""
        self._answer({"url": f"{self.hub.address}/{prefix}{name}", "name": name})

    def _upload_to(self, item: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.address}/stored/{item['oid']}"
        return {"oid": item["oid"], "size": item["size"], "actions": {"upload": {"href": href}}}

    def _commit(self, repository: str, body: bytes) -> None:
        files = self.hub.files.setdefault(repository, {})
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        self.hub.commits += 1
        place = repository.replace("dataset/", "datasets/").removeprefix("model/")
        self._answer({"commitUrl": f"{self.hub.address}/{place}/commit/1", "commitOid": "1", "success": True})

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, document: dict[str, Any], status: int = 200) -> None:
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def _mode(path: str) -> str:
    return "lfs" if path.endswith(_LARGE) else "regular"
