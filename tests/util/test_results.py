"""Finished rows, for a person to read."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from rayllm_batch.output.run_columns import tell_failed
from util import results


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


def test_html() -> None:
    table = Cells(results.as_html([row(), FAILED], "article"))
    assert table.cells == [
        "",
        "article",
        "generated_text",
        "tokens",
        "1",
        "A storm closed the harbour.",
        "Storm, harbour closed.",
        "1,234 in, 56 out, stop",
        "2",
        "A storm closed the harbour.",
        "error: parse_row: KeyError: 'text'",
        "0 in, 0 out, error",
    ]


def test_html_escapes_what_models_and_datasets_hold() -> None:
    nasty = "<script>alert('x')</script><img src=x onerror=\"alert(1)\"> & <b>"
    rows = [row(article=nasty, generated_text=nasty, finish_reason=nasty), row(error=nasty), row(**{nasty: "x"})]
    for column in ("article", nasty):
        html = results.as_html(rows, column)
        assert not {"script", "img"} & set(Cells(html).tags) and "<script" not in html
    assert nasty in Cells(results.as_html(rows, "article")).cells, "and it is shown as it is"


def test_html_shortens_the_input_and_not_the_answer() -> None:
    table = Cells(results.as_html([row(article="long " * 1000, generated_text="word " * 1000)], "article"))
    article, answer = table.cells[5:7]
    assert len(article) <= results.INPUT_CHARACTERS and article.endswith(" ...")
    assert answer == "word " * 1000


def test_html_keeps_the_lines_of_the_answer() -> None:
    html = results.as_html([row(generated_text="- one\n- two")], "article")
    assert "- one\n- two" in Cells(html).cells and "white-space:pre-wrap" in html


def test_what_a_typed_answer_or_a_rollout_has_is_beside_the_answer() -> None:
    typed = row(parsed={"title": "<Storm>", "tags": ["sea"]}) | {"judged": 7, "unused": None}
    text = results.as_text([typed], "article")
    assert text.splitlines()[-3:] == ["    parsed.title: <Storm>", '    parsed.tags: ["sea"]', "    judged: 7"], (
        "and no input column"
    )
    assert {"parsed.title", "<Storm>", "judged", "7"} <= set(Cells(results.as_html([typed], "article")).cells)


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
    results.show_results(Rows([row()] * 20 + [FAILED]), "article", n=3)
    assert capsys.readouterr().out.count("generated_text:") == 3
    results.show_results(Rows([FAILED] * 3 + [row()] * 20), "article", n=3)
    shown = capsys.readouterr().out
    assert (
        shown.count("generated_text:") == 3 and "3 of the first 3 rows failed: only_failures=True shows them." in shown
    )
    results.show_results(tell_failed(Rows([FAILED] * 3 + [row()] * 2), 3), "article", n=3)
    shown = capsys.readouterr().out
    assert shown.count("generated_text:") == 2 and shown.count("error:") == 1 and "3 of 5 rows failed" in shown
    results.show_results(tell_failed(Rows([row()] * 5), 0), "article")
    assert "failed" not in capsys.readouterr().out
    results.show_results(Rows([row()] * 20 + [FAILED]), "article", only_failures=True)
    shown = capsys.readouterr().out
    assert shown.count("[") == 1 and "KeyError: 'text'" in shown
    results.show_results(Rows([row()]), "article", only_failures=True)
    assert capsys.readouterr().out == "No row failed.\n"
    results.show_results(Rows(), "article")
    assert capsys.readouterr().out == "There are no rows.\n"
