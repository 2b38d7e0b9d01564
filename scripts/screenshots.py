"""Take the walkthrough's pictures again, from a real run: python scripts/screenshots.py

They are the ones that the test of the walkthrough in JupyterLab takes on its way (tests/browser; three minutes, and
Chromium). Here they become small and move to assets/.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TEST = "tests/browser/test_walkthrough_in_jupyterlab.py"
PICTURES = ("token-prompt", "preview", "results", "report")
COLORS = 32  # black text on white needs no more, and 32 colours make the files a third as large


def main() -> int:
    taken = ROOT / "test-results"
    for name in PICTURES:
        (taken / f"{name}.png").unlink(missing_ok=True)
    if subprocess.run([sys.executable, "-m", "pytest", TEST, "-q"], cwd=ROOT, check=False).returncode:
        print("The walkthrough's test did not pass, so assets/ keeps its pictures.")
        return 1
    for name in PICTURES:
        target = ROOT / "assets" / f"{name}.png"
        picture = Image.open(taken / f"{name}.png").convert("RGB").quantize(COLORS)
        picture.save(target, optimize=True)
        print(f"{target.relative_to(ROOT)}: {picture.width} x {picture.height}, {target.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
