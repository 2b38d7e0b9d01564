"""A proxy in front of an object storage, that is rude: cuts connections, answers with errors, slowly, or not at all.

with RudeStorage("127.0.0.1:7480") as proxy:
    proxy.fault = lambda method, path: "cut" if method == "PUT" else None
    uri = f"s3://bucket/answers?scheme=http&endpoint_override={proxy.address}"
"""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ERRORS = {  # status, code, and further headers
    "500": (500, "InternalError", {}),
    "slow down": (503, "SlowDown", {}),
    "expired": (400, "ExpiredToken", {}),
    "denied": (403, "AccessDenied", {}),
    "region": (301, "PermanentRedirect", {"x-amz-bucket-region": "eu-north-1"}),
}
SLOW_S = 2.0
HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "expect"}


class RudeStorage:
    """fault: of a request, by its method and path: "cut", "cut answer", "slow", one of ERRORS, or None. It may be set at any time.

    met: how often each was met. requests, by their methods.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.fault: Callable[[str, str], str | None] = lambda _method, _path: None
        self.met: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> RudeStorage:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(storage: RudeStorage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            storage.requests[self.command] += 1
            if fault := storage.fault(self.command, self.path):
                storage.met[fault] += 1
            if fault == "cut":
                self.close_connection = True
                return
            if fault in ERRORS:
                status, code, headers = ERRORS[fault]
                said = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>of the test</Message></Error>'.encode()
                self._answer(status, {"Content-Type": "application/xml", **headers}, said)
                return
            if fault == "slow":
                time.sleep(SLOW_S)
            upstream = http.client.HTTPConnection(storage.upstream, timeout=60)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                content = answer.read()
            except OSError:
                self.close_connection = True
                return
            finally:
                upstream.close()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
            if fault == "cut answer" and self.command != "HEAD":  # whose length is not that of its content
                kept["Content-Length"] = str(len(content))
                content = content[: len(content) // 2]
                self.close_connection = True
            self._answer(answer.status, kept, content)

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response_only(status)
            headers.setdefault("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

        def log_message(self, *_: object) -> None:
            pass

    return Handler
