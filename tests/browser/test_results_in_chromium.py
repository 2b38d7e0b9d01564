"""The table of results as a browser shows it: searched, sorted, filtered, opened; texts stay texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from rayllm_batch.display import framed
from util.results_page import results_page

PICTURES = Path(__file__).parents[2] / "test-results"
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(1)> $x^2$ $$\\frac{a}{b}$$ `code` &lt; \\(y\\)"


def row(number: int, **given: Any) -> dict[str, Any]:
    counts = {"num_input_tokens": 10 * number, "num_generated_tokens": number, "finish_reason": "stop", "error": None}
    return {"article": f"article {number}", "generated_text": f"summary {number}", **counts, **given}


def opened(browser: Any, path: Path, scheme: str, said: list[str]) -> Any:
    """A page with the table, in a body like JupyterLab's. said: gets what it asked for, and its scripts complained."""
    failed = {"generated_text": None, "finish_reason": "error"}
    rows = [row(i, error=f"tokenize: too long {i}", **failed) for i in (1, 2)]
    rows += [row(3, article=NASTY, generated_text=NASTY), row(4, finish_reason="length"), row(5, article="w" * 100_000)]
    rows += [row(i) for i in range(6, 10_000)]
    content = framed(results_page(rows, "article", "generated_text", "9,999 rows"), "Results", scripts=True)
    body = f"<body data-jp-theme-light={'true' if scheme == 'light' else 'false'}>"
    path.write_text(f"<!doctype html><meta charset=utf-8>{body}{content}", encoding="utf-8")
    # A scheme that Playwright emulated would hold in the frame too, whatever the notebook is.
    shown = browser.new_page(viewport={"width": 1400, "height": 800}, color_scheme="null")
    shown.on("request", lambda request: said.append(request.url.partition(":")[0]))
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    shown.goto(path.as_uri())
    return shown


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_table(browser: Any, tmp_path: Path, scheme: str) -> None:
    said: list[str] = []
    shown = opened(browser, tmp_path / "page.html", scheme, said)
    frame = shown.frame_locator("iframe")
    lines = frame.locator("tr.row")
    expect(lines).to_have_count(10)
    expect(lines.nth(0)).to_contain_text("error: tokenize: too long 1")
    lines.nth(2).click()
    details = frame.locator(".details")
    expect(details).to_contain_text(NASTY)
    lines.nth(2).press("Enter")
    expect(details).to_have_count(0)
    search = frame.get_by_label("Search:")
    search.fill("too long")
    expect(lines).to_have_count(2)
    search.fill("summary 9999")
    expect(lines).to_have_count(1)
    lines.first.click()
    expect(details).to_contain_text("article 9999")
    search.fill("")
    heading = frame.locator("thead tr > *").filter(has_text="tokens in")
    for _ in range(2):
        heading.locator(".dt-column-title").click()
    expect(lines.nth(0)).to_contain_text("summary 9999")
    frame.locator("thead tr > *").filter(has_text="finish").get_by_label("More...").click()
    frame.get_by_role("button", name="length").click()
    expect(lines).to_have_count(1)
    frame.get_by_role("button", name="length").click()
    frame.get_by_text("9,999 rows").click()  # closes the menu
    expect(lines).to_have_count(10)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = shown.frames[1].evaluate(ground) == "rgb(33, 37, 41)"
    assert dark == (scheme == "dark"), "as the notebook is"
    PICTURES.mkdir(exist_ok=True)
    shown.screenshot(path=PICTURES / f"table-{scheme}.png")
    shown.set_viewport_size({"width": 390, "height": 800})
    shown.screenshot(path=PICTURES / f"table-{scheme}-390.png")
    assert shown.frames[1].evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    shown.screenshot(path=PICTURES / f"table-{scheme}-390.png")
    assert set(said) <= {"file", "about", "data"}, "nothing of the network, and no script of a text ran"
    shown.close()
