"""A URL's bytes, from a host that a workload allows.

The standard library's HTTP client over a socket of our own: the name is looked up once, and the connection goes to the
very address that was checked, so that a second answer of a name server cannot lead elsewhere. No proxy is used,
whatever the environment says, since a proxy looks names up by itself. No credentials, cookies or other headers of ours
are sent.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Optional, Union
from urllib.parse import urljoin

from rayllm_batch.media.address import is_forbidden
from rayllm_batch.media.host_rule import HostRule, may_connect
from rayllm_batch.media.media_error import MediaError, NotAllowed
from rayllm_batch.media.rules import MediaRules
from rayllm_batch.media.url import Url

MOST_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
PASSING = (429, 500, 502, 503, 504)
SILENT_TIMES = 8  # in a row; a host that is away would else cost each of its rows the whole time
WAITS_S = (0.5, 1.5)  # before what may pass by itself is asked for again, within the same time
Resolve = Callable[[str, int], list[str]]


class Passing(MediaError):
    """May pass by itself."""


class Fetcher:
    """resolve: the addresses of a name; the system's own unless it is given."""

    def __init__(self, rules: MediaRules, resolve: Optional[Resolve] = None) -> None:
        self._rules = rules
        self._hosts = [HostRule.of(one) for one in rules.hosts]
        self._resolve = resolve or addresses_of
        self._silent: Counter[str] = Counter()  # by host, how often in a row no answer came in time
        self._tls: Optional[ssl.SSLContext] = None  # made once: it reads all certificates of the system

    def fetch(self, source: str) -> bytes:
        """At most `max_bytes`, in at most `timeout_s`. Raises MediaError, which shows no query and no credentials."""
        ends = time.monotonic() + self._rules.timeout_s
        for wait_s in (*WAITS_S, None):
            try:
                return self._follow(source, ends)
            except Passing:
                if wait_s is None or time.monotonic() + wait_s >= ends:
                    raise
                time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _follow(self, source: str, ends: float) -> bytes:
        url = Url.of(source)
        for _ in range(MOST_REDIRECTS + 1):
            given = self._get(url, ends)
            if isinstance(given, bytes):
                return given
            try:
                url = Url.of(urljoin(url.whole, given))
            except (MediaError, ValueError) as error:
                why = str(error) if isinstance(error, MediaError) else "its address cannot be read."
                raise MediaError(f"{url} redirects, and {why}") from None
        raise MediaError(f"{url} is the sixth redirect: expected at most {MOST_REDIRECTS}.")

    def _get(self, url: Url, ends: float) -> Union[bytes, str]:
        """What the URL holds, or where it redirects to."""
        addresses = self._addresses(url, ends)
        if self._silent[url.authority] >= SILENT_TIMES:
            raise MediaError(
                f"{url} is not asked for: its host did not answer the last {SILENT_TIMES} times in these rows."
            )
        line = Line(url, ends)
        try:
            line.open(addresses, self._context() if url.scheme == "https" else None)
            found = self._answer(url, line)
        except MediaError:
            self._silent.pop(url.authority, None)
            raise
        except Exception as error:
            if not line.is_late:
                raise _failure(url, error) from None
            self._silent[url.authority] += 1
            raise MediaError(f"{url} was not there after {self._rules.timeout_s:g} s (media_timeout_s).") from None
        finally:
            line.close()
        self._silent.pop(url.authority, None)
        return found

    def _addresses(self, url: Url, ends: float) -> list[str]:
        if url.address is not None and is_forbidden(url.address):
            raise NotAllowed(f"{url} is not fetched: no row may reach such an address.")
        if not any(rule.allows(url.scheme, url.host, url.address, url.port) for rule in self._hosts):
            raise NotAllowed(
                f"{url} is not fetched: add {url.authority!r} to the workload's media_hosts, if it may be."
            )
        found = [str(url.address)] if url.address is not None else self._look_up(url, ends)
        allowed = [one for one in found if may_connect(self._hosts, ip_address(one), url.port)]
        if not allowed:
            mend = (
                "no row may reach it."
                if is_forbidden(ip_address(found[0]))
                else "if rows may, add it to media_hosts too."
            )
            raise NotAllowed(f"{url} is not fetched, since its address {found[0]} is not public: {mend}")
        return allowed

    def _look_up(self, url: Url, ends: float) -> list[str]:
        """In a thread, since a name server may never answer, and a look-up cannot be ended."""
        found: list[Any] = []

        def look() -> None:
            try:
                found.append(self._resolve(url.host, url.port))
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(max(0.0, ends - time.monotonic()))
        if not found:
            raise MediaError(f"{url}: its host was not found after {self._rules.timeout_s:g} s (media_timeout_s).")
        if isinstance(found[0], socket.gaierror) and found[0].errno == socket.EAI_AGAIN:
            raise Passing(f"{url}: no name server said where its host is.")
        if isinstance(found[0], Exception) or not found[0]:
            raise MediaError(f"{url}: there is no such host.")
        return found[0]

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _answer(self, url: Url, line: Line) -> Union[bytes, str]:
        most = self._rules.max_bytes
        answer = line.ask()
        status = answer.status
        if status in REDIRECTS and (there := answer.getheader("Location")) is not None:
            return there.encode("latin-1").decode("utf-8", "replace")
        if status != 200:
            kind = Passing if status in PASSING else MediaError
            raise kind(f"{url} answers HTTP {status}: expected 200.")
        encoding = answer.getheader("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise MediaError(
                f"{url} answers in the encoding {encoding[:30]!r}, which was not asked for: expected plain bytes."
            )
        length = answer.length  # as Content-Length says, unless the body comes in chunks
        if length is not None and length > most:
            raise MediaError(f"{url} has {length:,} bytes, of at most {most:,} (max_media_bytes).")
        data = bytearray()
        while chunk := answer.read(min(1 << 16, most + 1 - len(data))):
            data += chunk
            if len(data) > most:
                raise MediaError(f"{url} has more than {most:,} bytes (max_media_bytes).")
        if line.is_late:
            raise TimeoutError
        if length is not None and len(data) < length:
            raise Passing(f"{url} ends after {len(data):,} of {length:,} bytes.")
        return bytes(data)


class Line:
    """One connection, which is cut when its time is over, wherever it then waits: a slow drip keeps no read from
    ending.
    """

    def __init__(self, url: Url, ends: float) -> None:
        self._url, self._ends = url, ends
        self._socket: Optional[socket.socket] = None
        self._timer: Optional[threading.Timer] = None
        self._answer: Optional[http.client.HTTPResponse] = None

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self._ends

    def open(self, addresses: list[str], tls: Optional[ssl.SSLContext]) -> None:
        """To the first of the addresses that answers."""
        for left in range(len(addresses), 0, -1):
            seconds = (self._ends - time.monotonic()) / left  # a dead one leaves time for the next
            if seconds <= 0:
                raise TimeoutError
            try:
                self._socket = socket.create_connection((addresses[-left], self._url.port), seconds)
                break
            except OSError:
                if left == 1:
                    raise
        assert self._socket is not None
        self._socket.settimeout(max(0.001, self._ends - time.monotonic()))
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=self._url.host, do_handshake_on_connect=False)
        self._timer = threading.Timer(self._ends - time.monotonic(), self._cut, [self._socket])
        self._timer.daemon = True
        self._timer.start()
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.do_handshake()

    @staticmethod
    def _cut(there: socket.socket) -> None:
        try:
            socket.socket.shutdown(
                there, socket.SHUT_RDWR
            )  # TLS's own would leave the reader's buffer without its cipher
        except OSError:
            pass

    def ask(self) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self._url.host, self._url.port)
        connection.sock = self._socket
        connection.putrequest("GET", self._url.target, skip_host=True, skip_accept_encoding=True)
        for name, value in (
            ("Host", self._url.authority),
            ("User-Agent", "rayllm-batch"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ):
            connection.putheader(name, value)
        connection.endheaders()
        self._answer = connection.getresponse()
        return self._answer

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._answer is not None:
            self._answer.close()
        if self._socket is not None:
            self._socket.close()


def addresses_of(host: str, port: int) -> list[str]:
    """In the system's order, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def _failure(url: Url, error: Exception) -> MediaError:
    """Without the error's own text, which may quote what a server sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return MediaError(
            f"{url}: its certificate is not valid here ({error.verify_message}): SSL_CERT_FILE names others."
        )
    if isinstance(error, ssl.SSLError):
        return MediaError(f"{url}: TLS failed ({error.reason or type(error).__name__}).")
    if isinstance(error, http.client.IncompleteRead):
        return Passing(f"{url} ends before its end.")
    if isinstance(error, OSError):
        return Passing(f"{url}: the connection failed ({error.strerror or type(error).__name__}).")
    return MediaError(f"{url} does not answer in HTTP ({type(error).__name__}).")
