"""A web server on loopback that is as rude as its paths say, and a resolver whose answers are as bad as its names."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections import Counter
from typing import Any

DEADLINE_S = 20.0  # what drips stops then, should nobody hang up


class MediaServer:
    """Serves while the context is open. files: what `/file/NAME` holds. asked: how often, by path. heads: what each request said."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: Counter[str] = Counter()
        self.heads: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> MediaServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                there, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(there,), daemon=True).start()

    def _serve(self, there: socket.socket) -> None:
        there.settimeout(DEADLINE_S)
        with there:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    more = there.recv(4096)
                    if not more:
                        return
                    head += more
                    if head.startswith(b"\x16"):  # TLS
                        return self._404(there, "")
                path = head.split(b" ")[1].decode()
                self.heads.append(head)
                self.asked[path] += 1
                name, _, rest = path[1:].partition("/")
                getattr(self, f"_{name}", self._404)(there, rest)
            except OSError:  # they hung up
                pass

    def _reply(
        self, there: socket.socket, body: bytes, status: str = "200 OK", *headers: str, length: bool = True
    ) -> None:
        lines = [f"HTTP/1.1 {status}", *([f"Content-Length: {len(body)}"] if length else []), *headers, "", ""]
        there.sendall("\r\n".join(lines).encode("latin-1") + body)

    def _404(self, there: socket.socket, rest: str) -> None:
        self._reply(there, b"no", "404 Not Found")

    def _file(self, there: socket.socket, rest: str) -> None:
        self._reply(there, self.files[rest.partition("?")[0]])

    def _status(self, there: socket.socket, rest: str) -> None:
        self._reply(there, b"<html>", f"{rest} Some")

    def _busy(self, there: socket.socket, rest: str) -> None:
        """503 the first time."""
        again = self.asked[f"/busy/{rest}"] > 1
        self._reply(there, self.files[rest], *([] if again else ["503 Busy"]))

    def _to(self, there: socket.socket, rest: str) -> None:
        self._reply(there, b"", "302 Found", f"Location: {rest}")

    def _loop(self, there: socket.socket, rest: str) -> None:
        self._to(there, f"/loop/{int(rest or 0) + 1}")

    def _gzip(self, there: socket.socket, rest: str) -> None:
        self._reply(there, gzip.compress(bytes(50_000_000), 9), "200 OK", "Content-Encoding: gzip")

    def _short(self, there: socket.socket, rest: str) -> None:
        self._reply(
            there,
            self.files["good.png"],
            f"200 OK\r\nContent-Length: {len(self.files['good.png']) + 100}",
            length=False,
        )

    def _liar(self, there: socket.socket, rest: str) -> None:
        self._reply(there, b"", f"200 OK\r\nContent-Length: {10**15}", length=False)

    def _minus(self, there: socket.socket, rest: str) -> None:
        self._reply(there, self.files[rest], "200 OK\r\nContent-Length: -5", length=False)

    def _extra(self, there: socket.socket, rest: str) -> None:
        self._reply(
            there, self.files[rest] + bytes(1000), f"200 OK\r\nContent-Length: {len(self.files[rest])}", length=False
        )

    def _endless(self, there: socket.socket, rest: str) -> None:
        self._forever(there, b"HTTP/1.1 200 OK\r\n\r\n", bytes(1 << 16))

    def _chunks(self, there: socket.socket, rest: str) -> None:
        self._forever(
            there, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4000\r\n" + bytes(0x4000) + b"\r\n"
        )

    def _badchunk(self, there: socket.socket, rest: str) -> None:
        there.sendall(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{rest}\r\nabc\r\n0\r\n\r\n".encode())

    def _headers(self, there: socket.socket, rest: str) -> None:
        self._forever(there, b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 1000 + b"\r\n")

    def _longheader(self, there: socket.socket, rest: str) -> None:
        self._forever(there, b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 65_536)

    def _interim(self, there: socket.socket, rest: str) -> None:
        self._forever(there, b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01)

    def _trailers(self, there: socket.socket, rest: str) -> None:
        self._forever(there, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: a\r\n", 0.01)

    def _drip(self, there: socket.socket, rest: str) -> None:
        self._forever(there, b"HTTP/1.1 200 OK\r\n\r\n", b"a", 0.05)

    def _driphead(self, there: socket.socket, rest: str) -> None:
        self._forever(there, b"HTTP/1.1 200 OK\r\nX-A: ", b"a", 0.05)

    def _dripto(self, there: socket.socket, rest: str) -> None:
        """A redirect each half second, never the same."""
        time.sleep(0.5)
        self._to(there, f"/dripto/{int(rest or 0) + 1}")

    def _hang(self, there: socket.socket, rest: str) -> None:
        there.recv(1)

    def _cut(self, there: socket.socket, rest: str) -> None:
        pass

    def _nonsense(self, there: socket.socket, rest: str) -> None:
        there.sendall(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")

    def _forever(self, there: socket.socket, head: bytes, part: bytes, pause_s: float = 0.0) -> None:
        there.sendall(head)
        ends = time.monotonic() + DEADLINE_S
        while time.monotonic() < ends:
            there.sendall(part)
            time.sleep(pause_s)


class Names:
    """In place of the system's resolver: as Fetcher calls it. asked: how often, by name."""

    def __init__(self, table: dict[str, list[str]]) -> None:
        self.table = table
        self.asked: Counter[str] = Counter()

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked[host] += 1
        if host == "hang.example":
            time.sleep(5)
        if host == "again.example":
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if host == "rebind.example":
            return ["127.0.0.1"] if self.asked[host] == 1 else ["10.0.0.1"]
        if host not in self.table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.table[host]
