"""Finished rows, for a person to read."""

from __future__ import annotations

import base64
import datetime as dt
import gzip
import io
import json
import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayllm_batch.errors import DatasetError
from rayllm_batch.output.run_columns import tell_failed
from util import results
from util.results_page import MOST_CHARACTERS, SHORT, results_page


def row(**given: Any) -> dict[str, Any]:
    return {
        "article": "A storm closed the harbour.",
        "generated_text": "Storm, harbour closed.",
        "num_input_tokens": 1234,
        "num_generated_tokens": 56,
        "finish_reason": "stop",
        "error": None,
        **given,
    }


FAILED = row(
    generated_text=None,
    num_input_tokens=0,
    num_generated_tokens=0,
    finish_reason="error",
    error="parse_row: KeyError: 'text'",
)


class Cells(HTMLParser):
    """The texts of the table's cells as a browser would show them, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.cells[-1] += data


def test_text() -> None:
    text = results.as_text([row(), FAILED], "article")
    first, second = text.split("\n\n")
    assert first.splitlines() == [
        "[1] 1,234 in, 56 out, stop",
        "    article: A storm closed the harbour.",
        "    generated_text: Storm, harbour closed.",
    ]
    assert second.startswith("[2] 0 in, 0 out, error") and "    error: parse_row: KeyError: 'text'" in second
    assert "generated_text" not in second


def test_text_shortens_the_input_and_wraps_the_whole_answer() -> None:
    answer = " ".join(f"word{i}" for i in range(400))
    text = results.as_text([row(article="long " * 1000, generated_text=answer)], "article")
    lines = text.splitlines()
    assert max(map(len, lines)) <= results.TEXT_WIDTH
    assert "..." in text and text.count("long") < 60
    answer_lines = lines[next(i for i, line in enumerate(lines) if "generated_text:" in line) :]
    assert " ".join(" ".join(answer_lines).replace("generated_text:", "").split()) == answer, (
        "nothing of the answer is lost"
    )


def test_text_keeps_a_row_in_one_block() -> None:
    text = results.as_text([row(article="one\n\ntwo\tthree", generated_text="four\n\n\nfive")], "article")
    assert "\n\n" not in text and "article: one two three" in text and "generated_text: four five" in text


def page_of(rows: list[dict[str, Any]], input_column: str = "article") -> tuple[str, dict[str, Any]]:
    """The page that is unpacked in the browser, and its rows."""
    packed = results_page(rows, input_column, results.answer_column(rows[0]), "A note.")
    page = gzip.decompress(base64.b64decode(re.search(r"atob\('([^']+)'\)", packed)[1])).decode()
    return page, json.loads(re.search(r'<script type="application/json" id="rows">(.*?)</script>', page)[1])


def opened(row: dict[str, Any]) -> str:
    """What a browser shows of a row that was opened."""
    return "".join(Cells(f"<table><td>{row['details']}</td></table>").cells)


def test_page() -> None:
    page, found = page_of([FAILED, row()])
    assert found["headings"] == ["", "article", "generated_text", "tokens in", "tokens out", "finish"]
    failed, answered = found["rows"]
    assert failed["cells"] == [1, "A storm closed the harbour.", "error: parse_row: KeyError: 'text'", 0, 0, "error"]
    assert answered["cells"] == [2, "A storm closed the harbour.", "Storm, harbour closed.", 1234, 56, "stop"]
    assert failed["failed"] and not answered["failed"] and "A note." in page
    assert opened(answered) == "articleA storm closed the harbour.generated_textStorm, harbour closed.tokens" + (
        "1,234 in, 56 out, stop"
    )


def test_page_escapes_what_models_and_datasets_hold() -> None:
    nasty = "<script>alert('x')</script><img src=x onerror=\"alert(1)\"> & <b> <!-- $x$"
    rows = [row(article=nasty, generated_text=nasty, finish_reason=nasty), row(error=nasty), row(**{nasty: nasty})]
    for column in ("article", nasty):
        page, found = page_of(rows, column)
        assert "alert('x')</script>" not in page and "<img src=x" not in page and "<!-- $" not in page
        for one in found["rows"]:
            assert not {"script", "img"} & set(Cells(f"<table><td>{one['details']}</td></table>").tags)
    assert nasty in opened(found["rows"][0]), "and it is shown as it is"


def test_page_is_bounded() -> None:
    long = row(article="long " * 100_000, generated_text="word " * 100_000)
    _, found = page_of([long] * 10)
    article = opened(found["rows"][0])
    assert "\n[... 480,000 characters ...]\n" in article and len(article) < 3 * MOST_CHARACTERS
    assert all(len(str(cell)) <= SHORT for cell in found["rows"][0]["cells"])
    page, found = page_of([long] * 10_000)
    assert 10 < len(found["rows"]) < 200 and f"The table has the first {len(found['rows'])} of them" in page


def test_page_of_every_task() -> None:
    picture = io.BytesIO()
    Image.new("RGB", (640, 480)).save(picture, "PNG")
    several = row(generated_texts=["one\ntwo", "three"], parsed=[{"title": "<a>"}, {"title": "b"}])
    asked = {"id": 7, "label": "mine", "image": {"bytes": picture.getvalue(), "path": None}}
    counted = {"num_input_tokens": 5, "error": None}
    embedded = {**asked, "embedding": np.arange(384, dtype="float32"), **counted}
    classified = {"text": "a", "label": "spam", "probabilities": np.float32([0.75, 0.25]), **counted}
    scored = {"text": "a", "score": None, "scores": [0.5, 0.25], **counted}
    _, found = page_of([several | {"generated_text": None}])
    assert "[1] one\ntwo\n[2] three" in opened(found["rows"][0]) and "parsed.title<a>b" in opened(found["rows"][0])
    _, found = page_of([embedded], "image")
    assert found["headings"] == ["", "image", "embedding", "tokens in", "outcome"]
    assert found["rows"][0]["cells"][2].startswith("384 numbers: 0.0000, 1.0000, 2.0000,")
    assert "<img src='data:image/jpeg;base64," in found["rows"][0]["details"] and "mine" in opened(found["rows"][0])
    _, found = page_of([classified], "text")
    assert found["rows"][0]["cells"][2:] == ["spam", 5, "answered"] and "[0.75,0.25]" in opened(found["rows"][0])
    loop: list[Any] = []
    loop.append(loop)
    odd = {"when": dt.datetime(2024, 1, 2), "images": [{"bytes": b"\xff" * 9}], "map": {(1, 2): 3}, "loop": loop}
    _, found = page_of([{**odd, **row(article=None)}])
    said = opened(found["rows"][0])
    assert 'when2024-01-02 00:00:00images[{"bytes":"<9 bytes>"}]map{(1, 2): 3}loop[[[...]]]generated_text' in said
    _, found = page_of([scored, {**scored, "error": "tokenize: too long", "scores": None}], "text")
    assert "[1] 0.5\n[2] 0.25" in opened(found["rows"][0]) and found["rows"][1]["cells"][-1] == "error"


def test_what_a_typed_answer_or_a_rollout_has_is_beside_the_answer() -> None:
    typed = row(parsed={"title": "<Storm>", "tags": ["sea"]}) | {"judged": 7, "unused": None}
    text = results.as_text([typed], "article")
    assert text.splitlines()[-3:] == ["    parsed.title: <Storm>", '    parsed.tags: ["sea"]', "    judged: 7"], (
        "and no input column"
    )
    assert "parsed.title<Storm>" in opened(page_of([typed])[1]["rows"][0])


class Rows(list):
    """As much of a Dataset as show_results needs."""

    def filter(self, *, expr: object) -> Rows:
        assert "error" in str(expr), "only the error column decides what failed"
        wanted = "NOT_NULL" in repr(expr).upper()
        return Rows(row for row in self if (row["error"] is not None) == wanted)

    def take(self, n: int) -> list:
        return self[:n]

    def count(self) -> int:
        return len(self)


def test_show_results(capsys: Any) -> None:
    def shown(rows: Rows, n: int = 1000) -> str:
        results.show_results(rows, "article", n)
        return capsys.readouterr().out

    text = shown(Rows([row()] * 20 + [FAILED]))
    assert text.count("generated_text:") == 15 and text.index("KeyError: 'text'") < text.index("generated_text:")
    assert "21 rows, 1 failed, which come first. Here are 16 of them." in text
    text = shown(Rows([row()] * 20 + [FAILED] * 30))
    assert text.count("generated_text:") == 8 == text.count("error:") and "50 rows, 30 failed" in text
    for n, failures in ((3, 1), (2, 1), (5, 2), (1, 0)):  # few rows are not all failures either
        text = shown(Rows([row()] * 20 + [FAILED] * 3), n=n)
        assert text.count("error:") == failures and text.count("generated_text:") == n - failures
    assert "4+ failed" in shown(Rows([FAILED] * 30), n=4)
    text = shown(tell_failed(Rows([row()] * 5), 0))
    assert text.count("generated_text:") == 5 and "5 rows, 0 failed. Here are 5 of them." in text
    assert shown(Rows()) == "There are no rows.\n"
    with pytest.raises(DatasetError, match="no column 'artcle', but: article, .*'article'"):
        results.show_results(Rows([row()]), "artcle")


def test_show_results_in_a_notebook(monkeypatch: Any) -> None:
    displayed: list[dict[str, str]] = []
    ipython = SimpleNamespace(
        get_ipython=lambda: SimpleNamespace(kernel=object()),
        display=SimpleNamespace(display=lambda data, raw: displayed.append(data)),
    )
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    results.show_results(Rows([row()] * 20 + [FAILED]), "article")
    (data,) = displayed
    assert "<iframe" in data["text/html"] and "sandbox='allow-scripts'" in data["text/html"]
    assert "allow-same-origin" not in data["text/html"] and data["text/plain"].count("generated_text:") == 15
