"""docs/ becomes a site: strictly, so that a dead link fails; without anything from another host; linked from the README."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("sphinx", reason="make docs needs Python 3.11")
LOADS = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}


def build(docs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` does."""
    words = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(docs), str(out)]
    return subprocess.run(words, cwd=docs.parent, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", out)
    assert done.returncode == 0, done.stderr
    return out


class Links(HTMLParser):
    """What a page loads and links to, and the names that can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.names: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given["id"]} if "id" in given else set()
        if tag == "a" and "href" in given:
            self.linked.append(given["href"])
        if given.get("rel") not in ("canonical", "author") and given.get(LOADS.get(tag, "")):
            self.loaded.append(given[LOADS[tag]])


def test_nothing_comes_from_another_host(site: Path) -> None:
    for page in site.glob("*.html"):
        for address in Links(page).loaded:
            assert not urlsplit(address).netloc, f"{page.name} loads {address}"
    for sheet in site.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^\s\"')]+", sheet.read_text(encoding="utf-8"))
        assert not found, f"{sheet.name} loads {found}"


def test_each_link_within_the_site_arrives(site: Path) -> None:
    pages = {page.name: Links(page) for page in site.glob("*.html")}
    arrived = 0
    for name, page in pages.items():
        for address in page.linked:
            to = urlsplit(address)
            if to.scheme or to.netloc:
                continue
            target = site / unquote(to.path) if to.path else site / name
            assert target.is_file(), f"{name} links to {address}"
            if to.fragment and target.suffix == ".html":
                assert unquote(to.fragment) in pages[target.name].names, f"{name} links to {address}"
            arrived += 1
    assert arrived > 300


def test_a_dead_link_fails_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy2(ROOT / "docs" / "conf.py", docs)
    shutil.copytree(ROOT / "docs" / "site", docs / "site")
    (tmp_path / "rayllm_batch").symlink_to(ROOT / "rayllm_batch")
    (docs / "index.md").write_text("# Title\n\n[gone](gone.md) and [no such part](index.md#gone)\n")
    done = build(docs, tmp_path / "bad")
    assert done.returncode and "gone.md" in done.stderr and "'gone'" in done.stderr, done.stderr


def test_the_reference_has_what_the_package_offers(site: Path) -> None:
    import rayllm_batch
    from rayllm_batch import errors

    names = Links(site / "reference.html").names
    assert {f"rayllm_batch.{name}" for name in rayllm_batch.__all__} <= names
    all_errors = [name for name, of in vars(errors).items() if isinstance(of, type) and issubclass(of, Exception)]
    assert {f"rayllm_batch.errors.{name}" for name in all_errors} <= names
    text = (site / "reference.html").read_text(encoding="utf-8")
    assert "--retry-failed" in text and "usage: python -m rayllm_batch init" in text
    assert "retry_failed" in text and "&lt;no value&gt;" not in text and str(ROOT) not in text
