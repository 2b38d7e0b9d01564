"""The report's file as a browser shows it, in light and in dark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_samples import SampleRun

from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.report.comparison import Compared, Comparison
from rayllm_batch.report.page import page

PICTURES = Path(__file__).parents[2] / "test-results"
# Lightness as WCAG 2 defines it, of each text on the page's background, and of what the plots draw.
CONTRASTS = """() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const contrast = colour => {
    const l = light(colour);
    return (Math.max(l, ground) + 0.05) / (Math.min(l, ground) + 0.05);
  };
  const found = {};
  for (const element of document.querySelectorAll('p, li, td, th, h1, h2, dt, dd, small, footer, svg text'))
    if (element.textContent.trim()) {
      const style = getComputedStyle(element);
      const colour = element.closest('svg') ? style.fill : style.color;
      found[element.tagName + ' ' + colour] = contrast(colour);
    }
  const drawn = ['--one', '--two', '--three'].map(name => `svg path[style*="${name}"]`).join();
  for (const part of document.querySelectorAll(drawn)) {
    const style = getComputedStyle(part);
    const colour = style.stroke.startsWith('rgb') ? style.stroke : style.fill;
    found['drawn ' + colour] = contrast(colour);
  }
  return {ground, found};
}"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    run = SampleRun().fail(
        *["parse_row: KeyError: 'text'; the row has: id"] * 3,
        "tokenize: the prompt has 9000 tokens, but max_model_len is 8192",
    )
    path.write_text(page(**run.report()), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_can_be_read(browser: Any, saved: Path, scheme: str) -> None:
    shown = browser.new_page(viewport={"width": 900, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    problems: list[str] = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("console", lambda message: problems.append(message.text))
    shown.goto(saved.as_uri())
    assert "The GPUs were full" in shown.locator(".verdict").inner_text()
    assert shown.locator(".verdict").bounding_box()["y"] < 200, "the verdict is what is seen first"
    assert shown.locator("svg[aria-label=timeline-1] text").filter(has_text="last row").is_visible()
    measured = shown.evaluate(CONTRASTS)
    assert (measured["ground"] > 0.5) == (scheme == "light")
    assert len(measured["found"]) > 10 and sum(what.startswith("drawn") for what in measured["found"]) == 3
    assert not {
        what: contrast
        for what, contrast in measured["found"].items()
        if contrast < (3 if what.startswith("drawn") else 4.5)
    }
    for width in (900, 390):  # a notebook's cell, a telephone
        shown.set_viewport_size({"width": width, "height": 900})
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        edge = "Math.max(...[...document.querySelectorAll('svg, td.long')].map(t => t.getBoundingClientRect().right))"
        assert shown.evaluate(edge) <= width, "plots and answers are seen whole"
        smallest = "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
        assert shown.evaluate(smallest) >= 9, "words in the plots can be read: pixels of a line"
        narrow = "[...document.querySelectorAll('td.text')].filter(t => t.getBoundingClientRect().width < 60).length"
        assert shown.evaluate(narrow) == 0, "no cell is a letter wide"
    shown.emulate_media(media="print", color_scheme=scheme)
    on_paper = shown.evaluate(CONTRASTS)
    assert on_paper["ground"] > 0.9 and min(on_paper["found"].values()) >= 3, "dark on white, whatever the screen is"
    shown.emulate_media(media="screen", color_scheme=scheme)
    shown.set_viewport_size({"width": 900, "height": 900})
    PICTURES.mkdir(exist_ok=True)
    shown.screenshot(path=PICTURES / f"report-{scheme}.png", full_page=True)
    assert asked == [saved.as_uri()] and not problems
    shown.close()


@pytest.mark.parametrize("width", [390, 1000])
def test_what_is_compared_stands_on_the_page(browser: Any, tmp_path: Path, width: int) -> None:
    """Typed answers of two configs, whose JSON has no spaces: beside each other at a desk, scrolled on a telephone."""
    form = {"summary": "arrived with a cracked lid", "products": [{"name": "kettle" * 9, "is_broken": False}] * 2}
    row = {"generated_text": json.dumps(form, separators=(",", ":")), "parsed": form, "error": None}
    both = [Compared(name, [row], RunMetrics(rows=1), None) for name in ("gemma-3-270m", "smollm2-135m-instruct")]
    Comparison([{"id": "T-1", "text": "a kettle " * 20}], both, "generated_text").save(tmp_path / "comparison.html")
    shown = browser.new_page(viewport={"width": width, "height": 900})
    shown.goto((tmp_path / "comparison.html").as_uri())
    answers = shown.locator(".wide").last
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert answers.evaluate("e => e.scrollWidth - e.clientWidth") <= (0 if width == 1000 else 400)
    lines = "all => all.map(e => { const r = new Range(); r.selectNodeContents(e); return r.getClientRects().length })"
    assert answers.locator("td td:first-child").evaluate_all(lines) == [1] * 4, "names of fields are not broken"
    narrowest = answers.evaluate("e => Math.min(...[...e.querySelectorAll('td + td')].map(t => t.clientWidth))")
    assert narrowest > 60, "no cell is a letter wide"
    shown.close()
