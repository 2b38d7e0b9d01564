"""URLs of rows: what is asked, of whom, and what an error may show."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import media_samples as made
import pytest
from media_server import MediaServer, Names

from rayllm_batch.media.fetch import Fetcher
from rayllm_batch.media.media_error import MediaError
from rayllm_batch.media.rules import MediaRules

PNG = made.image()


@pytest.fixture(scope="module")
def web() -> Iterator[MediaServer]:
    with MediaServer({"good.png": PNG, "bild-ü.png": PNG}) as server:
        yield server


def fetch(web: MediaServer, path: str, *hosts: str, **rules: Any) -> bytes:
    return Fetcher(MediaRules(hosts=hosts or (f"127.0.0.1:{web.port}",), timeout_s=5, **rules)).fetch(
        f"http://127.0.0.1:{web.port}/{path}"
    )


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "127.0.0.0/8:{port}", "[127.0.0.0/8]:{port}"])
def test_a_private_address_that_is_named(web: MediaServer, host: str) -> None:
    assert fetch(web, "file/good.png", host.replace("{port}", str(web.port))) == PNG


@pytest.mark.parametrize("host", ["*", "*:{port}", "127.0.0.1", "127.0.0.0/8", "localhost:{port}", "10.0.0.0/8:{port}"])
def test_one_that_is_not(web: MediaServer, host: str) -> None:
    with pytest.raises(MediaError, match="is not fetched"):
        fetch(web, "file/good.png", host.replace("{port}", str(web.port)))


def test_a_name_may_lead_to_a_network_that_is_named(web: MediaServer) -> None:
    names = Names({"media.corp": ["127.0.0.1"]})
    url = f"http://MEDIA.corp.:{web.port}/file/good.png"
    for hosts in ((f"media.corp:{web.port}", "127.0.0.0/8"), (f"*.corp:{web.port}", f"127.0.0.1:{web.port}")):
        assert Fetcher(MediaRules(hosts=hosts), names).fetch(url) == PNG
    for hosts in (
        (f"media.corp:{web.port}",),
        (f"media.corp:{web.port}", "127.0.0.1:1"),
        ("media.corp", "127.0.0.0/8"),
    ):
        with pytest.raises(MediaError, match="is not fetched"):
            Fetcher(MediaRules(hosts=hosts), names).fetch(url)


def test_a_dead_address_leaves_the_next_its_time(web: MediaServer) -> None:
    """127.0.0.9 refuses, where nothing listens."""
    names = Names({"two.example": ["127.0.0.9", "127.0.0.1"]})
    rules = MediaRules(hosts=(f"two.example:{web.port}", "127.0.0.0/8"))
    assert Fetcher(rules, names).fetch(f"http://two.example:{web.port}/file/good.png") == PNG


def test_what_is_sent(web: MediaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # of which nothing is to be noticed
    web.heads.clear()
    assert fetch(web, "file/good.png?sig=A%2FB&x=ü#part") == PNG
    assert web.heads[0].decode().split("\r\n") == [
        "GET /file/good.png?sig=A%2FB&x=%C3%BC HTTP/1.1",
        f"Host: 127.0.0.1:{web.port}",
        "User-Agent: rayllm-batch",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
        "",
        "",
    ]


SECRETS = [
    "http://127.0.0.1:{port}/status/404?X-Amz-Signature=hush",
    "http://127.0.0.1:{port}/status/503?hush",
    "http://127.0.0.1:{port}/to/http://10.0.0.1/a?hush",
    "http://127.0.0.1:{port}/to/http://u:hush@127.0.0.1/",
    "http://127.0.0.1:{port}/short/good.png?hush",
    "http://127.0.0.1:{port}/status/404#hush",
    "http://user:hush@127.0.0.1:{port}/x",
    "http://hush:@127.0.0.1/x",
    "http://user:hu/hush@127.0.0.1/x",
    "http://user:1/hush@127.0.0.1/x",
    "http://user:hush",
    "http://user:hush?@h/",
    "http://user:hush#@h/",
    "http://user:hush\\@h/",
    "http://[hush@h/",
    "http://user:hush @h/",
    "https://127.0.0.1:{port}/x?hush",
    "http://127.0.0.1:{port}/nonsense/?hush",
    "http://none.example/?hush",
    "ftp://user:hush@h/x",
]


@pytest.mark.parametrize("url", SECRETS)
def test_no_error_shows_a_query_or_a_password(web: MediaServer, url: str) -> None:
    from rayllm_batch.media.reader import MediaReader

    hosts = (f"127.0.0.1:{web.port}", "127.0.0.1", "*.example", "user")
    reader = MediaReader(MediaRules(hosts=hosts, timeout_s=0.4), Names({}))
    with pytest.raises(MediaError) as raised:
        reader.read("image", url.replace("{port}", str(web.port)))
    assert "hush" not in "".join(traceback.format_exception(raised.value))


def test_a_host_that_is_silent_is_soon_left_alone_and_others_are_not(web: MediaServer) -> None:
    hosts = (f"127.0.0.1:{web.port}", f"*.example:{web.port}")
    fetcher = Fetcher(MediaRules(hosts=hosts, timeout_s=0.05), Names({"good.example": ["127.0.0.1"]}))
    for number in range(9):
        with pytest.raises(MediaError, match="media_timeout_s" if number < 8 else "did not answer the last 8 times"):
            fetcher.fetch(f"http://127.0.0.1:{web.port}/hang/{number}")
    assert web.asked["/hang/8"] == 0
    assert fetcher.fetch(f"http://good.example:{web.port}/file/good.png") == PNG


def certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "good.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made_of = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made_of = (
        made_of.serial_number(1)
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
    )
    names = [x509.DNSName("good.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = made_of.add_extension(x509.SubjectAlternativeName(names), False).sign(key, hashes.SHA256())
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(signed.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return folder / "cert.pem", folder / "key.pem"


def serve_tls(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            there, _ = listener.accept()
        except OSError:
            return
        try:
            with context.wrap_socket(there, server_side=True) as safe:
                if b"/drip" not in safe.recv(4096):
                    safe.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PNG) + PNG)
                    continue
                safe.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                for _ in range(100):
                    safe.sendall(b"a")
                    threading.Event().wait(0.05)
        except OSError:
            pass


def test_tls_is_checked_for_the_name_and_a_drip_in_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve_tls, args=(listener, context), daemon=True).start()
        port = listener.getsockname()[1]
        names = Names({"good.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
        rules = MediaRules(hosts=(f"*.example:{port}", f"127.0.0.1:{port}"), timeout_s=1)
        with pytest.raises(MediaError, match="certificate is not valid"):
            Fetcher(rules, names).fetch(f"https://good.example:{port}/")
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        fetcher = Fetcher(rules, names)
        assert fetcher.fetch(f"https://good.example:{port}/") == PNG
        assert fetcher.fetch(f"https://127.0.0.1:{port}/") == PNG
        with pytest.raises(MediaError, match="certificate is not valid"):
            fetcher.fetch(f"https://other.example:{port}/")
        with pytest.raises(MediaError, match="timeout_s"):
            fetcher.fetch(f"https://good.example:{port}/drip")
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(MediaError, match="timeout_s"):
            port = silent.getsockname()[1]
            Fetcher(MediaRules(hosts=(f"127.0.0.1:{port}",), timeout_s=0.2)).fetch(f"https://127.0.0.1:{port}/")
        listener.shutdown(socket.SHUT_RDWR)
