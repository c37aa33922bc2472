"""Requests to servers that say nothing, or stand behind a proxy."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from kidcore.errors import KidpipeError
from kidcore.models.backends.served_client import Servers


def test_who_waits_for_an_answer_is_woken_when_nothing_is_asked_any_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as threads:
        servers = Servers([f"http://127.0.0.1:{silent.getsockname()[1]}"], timeout_s=60.0, patience_s=60.0)
        answer = threads.submit(servers.ask, {"prompt": [1]})
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1 << 16), "the request is under way"
            servers.close()
            error = answer.exception(timeout=20)
        assert isinstance(error, KidpipeError)
        assert "asked no more" in error.what


@pytest.mark.parametrize(("status", "is_checked"), [(429, False), (500, False), (502, True), (503, True), (504, True)])
def test_what_a_proxy_says_of_a_server_that_is_away_makes_it_suspect(status: int, is_checked: bool) -> None:
    statuses = [status, 200]

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(statuses.pop(0))
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    checked: list[str] = []
    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{proxy.server_port}"
        servers = Servers([url], 20.0, 20.0, lambda url, _: checked.append(url))
        try:
            assert servers.ask({"prompt": [1]}) == {}
        finally:
            servers.close()
            proxy.shutdown()
            thread.join()
    assert checked == [url] * is_checked
