"""What strangers may put into a row where an image, a sound or a video belongs. tests/media and bench/media_attacks.py go through it."""

from __future__ import annotations

import base64
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import media_samples as made
from media_server import MediaServer, Names

from rayllm_batch.media.reader import MediaReader
from rayllm_batch.media.rules import MediaRules

RULES = {"max_bytes": 2_000_000, "max_pixels": 4_000_000, "max_seconds": 10.0, "timeout_s": 1.0}
GOOD = made.image()
PRIVATE = {
    "private": "10.0.0.1",
    "home": "192.168.1.1",
    "docker": "172.17.0.1",
    "cgnat": "100.64.0.1",
    "metadata": "169.254.169.254",
    "azure": "168.63.129.16",
    "alibaba": "100.100.100.200",
    "zero": "0.0.0.0",
    "this": "0.1.2.3",
    "multicast": "224.0.0.1",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1",
    "test": "192.0.2.1",
    "local6": "::1",
    "any6": "::",
    "mapped": "::ffff:10.0.0.1",
    "mappedmeta": "::ffff:169.254.169.254",
    "compatible": "::10.0.0.1",
    "nat64": "64:ff9b::a9fe:a9fe",
    "sixtofour": "2002:a00:1::1",
    "teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "unique6": "fd12::1",
    "awsmeta6": "fd00:ec2::254",
    "link6": "fe80::1",
    "site6": "fec0::1",
    "group6": "ff02::1",
}
NAMES = {
    "good.example": ["127.0.0.1"],
    "loopback.example": ["127.0.0.1"],
    "none.example": [],
    "mixed.example": ["10.0.0.1", "127.0.0.1"],
    **{f"{name}.example": [address] for name, address in PRIVATE.items()},
}


@dataclass(frozen=True)
class Attack:
    """source: with {web}, {inner}, {folder} where it is a text. said: what the row's error must have in it; none: it is an
    image, sound or video that is taken. family: of the table."""

    family: str
    what: str
    source: Any
    said: str = ""
    kind: str = "image"


class World:
    """A web server that rows may ask, one that they may not, a folder with a secret beside it, and names that lie."""

    def __init__(self, root: Path, web: MediaServer, inner: MediaServer) -> None:
        self.root, self.folder, self.web, self.inner = root, root / "media", web, inner
        self.names = Names(NAMES)
        hosts = (
            f"127.0.0.1:{web.port}",
            f"good.example:{web.port}",
            f"mixed.example:{web.port}",
            f"rebind.example:{web.port}",
            "*.example",
        )
        self.rules = MediaRules(hosts=hosts, folder=str(self.folder), **RULES)
        self.reader = MediaReader(self.rules, self.names)

    def source(self, attack: Attack) -> Any:
        if type(attack.source) is not str:  # isinstance asks an object what it is
            return attack.source
        text = attack.source.replace("{web}", f"127.0.0.1:{self.web.port}").replace("{port}", str(self.web.port))
        return text.replace("{inner}", f"127.0.0.1:{self.inner.port}").replace("{folder}", str(self.folder))


@contextmanager
def world() -> Iterator[World]:
    root = Path(tempfile.mkdtemp())
    folder = root / "media"
    (folder / "sub").mkdir(parents=True)
    (root / "secret.png").write_bytes(GOOD)
    (root / "media2").mkdir()
    (root / "media2" / "secret.png").write_bytes(GOOD)
    (folder / "good.png").write_bytes(GOOD)
    (folder / "link.png").symlink_to("../secret.png")
    (folder / "inside.png").symlink_to("good.png")
    (folder / "up").symlink_to("..")
    (folder / "round").symlink_to("round")
    (folder / "zero").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    with (folder / "large.png").open("wb") as file:
        file.truncate(1 << 40)
    (folder / "closed.png").write_bytes(GOOD)
    files = {
        "good.png": GOOD,
        "page.html": b"<!DOCTYPE html><p>Sign in",
        "large": bytes(3_000_000),
        "evil.svg": SVG,
        "hls": HLS,
    }
    try:
        with MediaServer(files) as web, MediaServer(files) as inner:
            yield World(root, web, inner)
    finally:
        shutil.rmtree(root)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://169.254.169.254/\n#EXT-X-ENDLIST\n"


def _zip() -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.html", "<script>alert(1)</script>")
        return file.getvalue()


def _data(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _names() -> list[Attack]:
    found = [
        Attack("a name that leads inside", f"{address}", f"http://{name}.example/x", "is not public")
        for name, address in PRIVATE.items()
    ]
    return [
        *found,
        Attack(
            "a name that leads inside",
            "loopback, on another port than the named one",
            "http://loopback.example/x",
            "is not public",
        ),
        Attack("a name that leads inside", "no such host", "http://nowhere.example/x", "no such host"),
        Attack("a name that leads inside", "a name without addresses", "http://none.example/x", "no such host"),
        Attack(
            "a name that leads inside",
            "a name server that never answers",
            "http://hang.example/x",
            "was not found after",
        ),
        Attack("a name that leads inside", "a name server that fails", "http://again.example/x", "no name server"),
        Attack(
            "a name that leads inside",
            "a private address first, then an allowed one",
            "http://mixed.example:{port}/file/good.png",
        ),
        Attack(
            "a name that leads inside",
            "an allowed address once, then a private one",
            "http://rebind.example:{port}/file/good.png",
        ),
    ]


def _urls() -> list[Attack]:
    no, family = "is not fetched", "a URL that is read in two ways"
    return [
        Attack("a host that is not named", "loopback, another port", "http://{inner}/file/good.png", no),
        Attack("a host that is not named", "localhost by name", "http://localhost:{port}/file/good.png", no),
        Attack(
            "a host that is not named",
            "metadata by address",
            "http://169.254.169.254/latest/meta-data/",
            "no row may reach",
        ),
        Attack("a host that is not named", "IPv6 loopback", "http://[::1]:{port}/file/good.png", no),
        Attack(
            "a host that is not named",
            "mapped IPv6 of a named address, another port",
            "http://[::ffff:127.0.0.1]/x",
            no,
        ),
        Attack("a host that is not named", "a name that only ends alike", "http://evilgood.example:{port}/x", no),
        Attack(
            "a host that is not named", "a named host as another's subdomain", "http://good.example.evil.test/x", no
        ),
        Attack("a host that is not named", "the domain of a wildcard", "http://example/x", no),
        Attack("a host that is not named", "https on the port of http", "https://a.example:80/x", no),
        Attack("a host that is not named", "SSH's port", "http://a.example:22/x", no),
        Attack(family, "http://good@bad/", "http://good.example:{port}@{inner}/file/good.png", "user or a password"),
        Attack(family, "user and password", "http://user:secret@{web}/file/good.png", "user or a password"),
        Attack(family, "http://good#@bad/", "http://good.example#@{inner}/", "is not public"),
        Attack(family, "http://good?@bad/", "http://good.example?@{inner}/", "is not public"),
        Attack(family, "http://good\\@bad/", "http://good.example\\@{inner}/", "backslash"),
        Attack(family, "decimal", "http://2130706433:{port}/file/good.png", "neither a name nor an address"),
        Attack(family, "octal", "http://0177.0.0.1:{port}/file/good.png", "neither a name nor an address"),
        Attack(family, "hex", "http://0x7f.0.0.1:{port}/file/good.png", "neither a name nor an address"),
        Attack(family, "hex, whole", "http://0x7f000001:{port}/file/good.png", "neither a name nor an address"),
        Attack(family, "short", "http://127.1:{port}/file/good.png", "neither a name nor an address"),
        Attack(family, "full-width digits", "http://１２７.1:{port}/x", "neither a name nor an address"),
        Attack(family, "a look-alike (Cyrillic о)", "http://gооd.example:{port}/file/good.png", no),
        Attack(family, "a letter that decomposes into a/c", "http://good℀.example/x", "cannot be read"),
        Attack(family, "a percent-encoded host", "http://%67ood.example/x", "neither a name nor an address"),
        Attack(family, "CR and LF in the path", "http://{web}/file/good.png\r\nX-Evil: 1", "control character"),
        Attack(family, "CR and LF in the host", "http://good.example\r\n.evil.test/", "control character"),
        Attack(family, "a tab in the scheme", "ht\ttp://{inner}/file/good.png", "No such file"),
        Attack(family, "a null byte", "http://good.example\0.evil.test/", "control character"),
        Attack(family, "a space", "http://{web}/file/good.png HTTP/1.1", "has a space"),
        Attack(family, "encoded CR and LF, which stay encoded", "http://{web}/file/good.png?%0d%0aX-Evil:%201"),
        Attack(family, "a port that is none", "http://good.example:99999/x", "cannot be read"),
        Attack(family, "port 0", "http://good.example:0/x", "port is 0"),
        Attack(family, "no host", "http:///etc/passwd", "neither a name nor an address"),
        Attack(family, "http:host", "http:{inner}/file/good.png", "neither a name nor an address"),
        Attack(family, "a bracket too few", "http://[::1/x", "cannot be read"),
        Attack(family, "a host of 8,000 umlauts", "http://" + "ä" * 8_000 + "/x", "cannot be read"),
        Attack(family, "half a surrogate pair", "http://good.example/\ud800", "cannot be read"),
        Attack(family, "100,000 characters", "http://good.example/" + "a" * 100_000, "characters"),
        *(
            Attack("another scheme", scheme, f"{scheme}://{{inner}}/x", "expected")
            for scheme in "ftp gopher dict ldap ssh tftp jar php s3 hf concat pipe subfile rtmp javascript".split()
        ),
    ]


def _servers() -> list[Attack]:
    web, to, family = "http://{web}", "http://{web}/to/", "a rude server"
    redirects = [
        ("loopback, another port", "http://{inner}/file/good.png", "is not fetched"),
        ("metadata", "http://169.254.169.254/", "is not fetched"),
        ("a name that leads inside", "http://metadata.example/", "is not public"),
        ("a file: URL", "file:///etc/passwd", "expected an http"),
        ("a data: URL", _data(GOOD), "expected an http"),
        ("gopher", "gopher://{inner}/", "expected an http"),
        ("another host, without a scheme", "//{inner}/file/good.png", "is not fetched"),
        ("user and password", "http://a:b@{web}/file/good.png", "user or a password"),
        ("a local path", "/etc/passwd", "HTTP 404"),
    ]
    return [
        *(Attack("a redirect", f"to {what}", to + there, said) for what, there, said in redirects),
        Attack("a redirect", "to an image on the same host, which is followed", to + "/file/good.png"),
        Attack("a redirect", "in a loop", web + "/loop/0", "sixth redirect"),
        Attack("a redirect", "each half second", web + "/dripto/0", r"timeout_s|sixth"),
        *(
            Attack(family, what, f"{web}/{path}", said)
            for what, path, said in (
                ("503 once, then the image", "busy/good.png", ""),
                ("503 always", "status/503", "HTTP 503"),
                ("404", "status/404", "HTTP 404"),
                ("204", "status/204", "HTTP 204"),
                ("206", "status/206", "HTTP 206"),
                ("401", "status/401", "HTTP 401"),
                ("a sign-in page in 200", "file/page.html", "HTML"),
                ("SVG with a link to a file", "file/evil.svg", "SVG"),
                ("50 MB of zeros, gzipped", "gzip/", "encoding 'gzip'"),
                ("a body above max_bytes", "file/large", "3,000,000 bytes"),
                ("Content-Length of a petabyte", "liar/", "1,000,000,000,000,000 bytes"),
                ("Content-Length below 0", "minus/good.png", ""),
                ("more bytes than Content-Length", "extra/good.png", ""),
                ("fewer bytes than Content-Length", "short/good.png", "ends after"),
                ("an endless body", "endless/", "more than 2,000,000 bytes"),
                ("endless chunks", "chunks/", "more than 2,000,000 bytes"),
                ("a chunk of -5 bytes", "badchunk/-5", "before its end|HTTP|image"),
                ("a chunk of ffffffffffffffff bytes", "badchunk/ffffffffffffffff", "before its end|HTTP|connection"),
                ("a chunk of zz bytes", "badchunk/zz", "before its end|HTTP"),
                ("endless headers", "headers/", "HTTP"),
                ("an endless header", "longheader/", "HTTP"),
                ("endless 100 Continue", "interim/", "timeout_s|HTTP"),
                ("endless trailers", "trailers/", "timeout_s|HTTP"),
                ("a body that drips", "drip/", "timeout_s"),
                ("a header that drips", "driphead/", "timeout_s"),
                ("no answer", "hang/", "timeout_s"),
                ("a connection that is cut", "cut/", "connection"),
                ("not HTTP", "nonsense/", "HTTP"),
            )
        ),
        Attack(family, "TLS to a server without it", "https://{web}/", "TLS|connection"),
        Attack(family, "a playlist that names a metadata service", web + "/file/hls", "no video", "video"),
    ]


def _files() -> list[Attack]:
    no, family = "not below media_folder", "a local file"
    return [
        Attack(family, "below the folder", "good.png"),
        Attack(family, "a link that stays below", "inside.png"),
        *(
            Attack(family, source.replace("{folder}", "FOLDER"), source, said)
            for source, said in (
                ("/etc/passwd", no),
                ("file:///etc/passwd", no),
                ("FILE:///etc/passwd", no),
                ("../secret.png", no),
                ("sub/../../secret.png", no),
                ("{folder}/../secret.png", no),
                ("{folder}2/secret.png", no),
                ("file://{folder}/%2e%2e/secret.png", no),
                ("file://{folder}/..%2Fsecret.png", no),
                ("link.png", "a link leads out of"),
                ("up/secret.png", "a link leads out of"),
                ("round", "cannot be read"),
                ("/proc/self/environ", no),
                ("/proc/self/root{folder}/../secret.png", no),
                ("/dev/zero", no),
                ("zero", "a link leads out of"),
                ("\ud800.png", "expected|cannot be read|not below"),
                ("pipe", "no plain file"),
                (".", no),
                ("sub", "no plain file"),
                ("", "expected the path"),
                ("good.png\0.txt", "expected the path"),
                ("file://{folder}/good.png%00.txt", "expected the path"),
                ("file://evil.test/share/x.png", "names a host"),
                ("\\\\evil.test\\share\\x.png", "expected the path"),
                ("//evil.test/share/x.png", "expected the path"),
                ("file:////evil.test/x.png", "expected the path"),
                ("~/.ssh/id_rsa", "No such file"),
                ("$HOME/x.png", "No such file"),
                ("*.png", "No such file"),
                ("| id", "No such file"),
                ("large.png", "bytes, of at most"),
                ("good.png/", ""),
                ("a" * 300, "cannot be read"),
                ("a/" * 5000, "is no path"),
            )
        ),
    ]


def _images() -> list[Attack]:
    bomb, broken = "a decompression bomb", "a broken file"
    cut = [
        Attack(broken, f"{form}, cut after {part}", made.noise(form)[: int(len(made.noise(form)) * share)], "expected")
        for form in made.FORMATS
        for part, share in (("half", 0.5), ("nine tenths", 0.9), ("twenty bytes", 0.002))
    ]
    return [
        *(
            Attack(bomb, what, content, said)
            for what, content, said in (
                ("PNG of 100,000 x 100,000", made.huge_png(), "pixels"),
                ("PNG of 4,000,000,000 x 1", made.huge_png(4_000_000_000, 1), "pixels|expected"),
                ("PNG of 9 million pixels in 9 KB", made.png_bomb(), "9|pixels"),
                ("GIF of 65,535 x 65,535", made.huge_gif(), "pixels"),
                ("GIF whose frame is larger than its screen", made.gif_of_a_larger_frame(), "pixels"),
                ("WebP of 16,383 x 16,383", made.huge_webp(), "pixels|expected"),
                ("BMP of 100,000 x 100,000", made.huge_bmp(), "pixels"),
                ("TIFF of 100,000 x 100,000", made.huge_tiff(), "pixels"),
                ("JPEG of 65,000 x 65,000", made.huge_jpeg(), "pixels"),
                ("JPEG of 1,000 scans", made.jpeg_of_scans(1_000), "scans"),
                ("3,000,000 bytes", bytes(3_000_000), "bytes"),
                ("a data: URL of 3,000,000 bytes", _data(bytes(3_000_000)), "bytes"),
            )
        ),
        *cut,
        *(
            Attack(broken, what, content, said)
            for what, content, said in (
                ("no bytes", b"", "no bytes"),
                ("PNG of 0 x 0", made.huge_png(0, 0), "expected"),
                ("TIFF with LZW, cut", made.noise("TIFF", compression="tiff_lzw")[:-500], "expected"),
                ("PNG whose checksum is wrong", GOOD[:40] + b"xxxx" + GOOD[44:], "expected"),
                ("base64 with a letter too few", _data(GOOD)[:-1], "base64"),
                ("base64 with other letters", "data:image/png;base64,!!!!", "base64"),
                ("a data: URL without base64", "data:image/png,abc", "no base64"),
                ("a data: URL of HTML", "data:text/html;base64,PGI+", "HTML"),
                ("a data: URL without a comma", "data:image/png;base64", "no base64"),
                ("base64 of base64", _data(base64.b64encode(GOOD)), "no image"),
            )
        ),
        *(
            Attack("something else", what, content, said)
            for what, content, said in (
                ("EPS, which runs a program", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", "no image"),
                ("SVG", SVG, "SVG"),
                ("HTML", b"<html>", "HTML"),
                ("GIF's first letters and JavaScript", b"GIF89a/*\0\0*/=1;alert(1)", "expected"),
                ("PDF", b"%PDF-1.7\n", "no image"),
                ("a ZIP", _zip(), "no image"),
                ("ICO", made.image("ICO", (16, 16)), "no image"),
                ("PPM", made.image("PPM"), "no image"),
                ("a pickle", b"\x80\x04cos\nsystem\n(S'id'\ntR.", "no image"),
                ("a number", 3, "expected"),
                ("nothing", None, "expected"),
                ("a dict of nothing", {"bytes": None, "path": None}, "expected"),
                ("a dict with a path outside", {"bytes": None, "path": "/etc/passwd"}, "not below"),
                ("a list that holds itself", _loop(), "expected"),
                ("an object whose every attribute raises", Rude(), "expected"),
                ("sound for an image", made.wav(), "no image"),
            )
        ),
        *(
            Attack("an unusual image", what, content)
            for what, content in (
                ("JPEG with a ZIP behind it", made.image("JPEG") + _zip()),
                ("PNG with HTML behind it", GOOD + b"<script>alert(1)</script>"),
                ("animated GIF", made.animation("GIF")),
                ("animated WebP", made.animation("WEBP")),
                ("animated PNG", made.animation("PNG")),
                ("TIFF of three pages", made.animation("TIFF")),
                ("CMYK", made.image("JPEG", mode="CMYK", colour=(55, 245, 225, 0))),
                ("palette", made.image("PNG", mode="P")),
                ("JPEG of 90 scans", made.jpeg_of_scans(80)),
            )
        ),
    ]


def _sounds() -> list[Attack]:
    film = made.video()
    return [
        *(
            Attack("sound and video", what, content, said, kind)
            for what, kind, content, said in (
                ("an hour of silence in FLAC", "audio", made.sound("flac", 60.0, rate=8_000), "more than 10 seconds"),
                ("WAV of 4,000,000,000 samples a second", "audio", made.wav(rate=4_000_000_000), "expected"),
                ("WAV of 64 channels", "audio", made.wav(channels=64), "64 channels"),
                ("WAV without samples", "audio", made.wav(0.0), "no samples"),
                ("WAV, cut", "audio", made.wav(said=900_000), "ends after"),
                ("FLAC, cut", "audio", made.sound()[:-4_000], "expected"),
                ("MP4, cut", "video", film[:-200], "expected"),
                ("WebM, cut", "video", made.video("webm", "libvpx-vp9")[:700], "expected|ends after"),
                (
                    "a video of 8 million pixels a frame",
                    "video",
                    made.video(count=2, size=(4096, 2048)),
                    "4,096 x 2,048",
                ),
                ("a video of 11 seconds", "video", made.video(count=264), "11.0 seconds"),
                ("a video as sound", "audio", film, "no audio"),
                ("sound as a video", "video", made.wav(), "no video"),
                ("an image as a video", "video", made.image("JPEG"), "no video"),
                (
                    "a playlist of a local file",
                    "video",
                    HLS.replace(b"http://169.254.169.254/", b"file:///etc/passwd"),
                    "no video",
                ),
                ("a concatenation of local files", "video", b"ffconcat version 1.0\nfile /etc/passwd\n", "no video"),
                (
                    "an SDP that opens a port",
                    "video",
                    b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
                    "no video",
                ),
                ("Matroska of FFV1, a codec that is not read", "video", made.video("matroska", "ffv1"), "codec"),
                ("samples that are not finite", "audio", ([float("nan")] * 10, 16_000), "finite"),
                ("a rate of text", "audio", ([0.0] * 10, "16k"), "rate"),
                ("WAV", "audio", made.wav(), ""),
                ("WAV written as it came", "audio", made.wav(said=0xFFFFFFFF), ""),
                ("MP4", "video", film, ""),
            )
        )
    ]


def _loop() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


class Rude:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} for you")


def attacks() -> list[Attack]:
    return [*_names(), *_urls(), *_servers(), *_files(), *_images(), *_sounds()]
