"""README.ipynb in a real JupyterLab: Run All ends without an error, and saving keeps the exported script in step."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

pytest.importorskip("playwright")
from jupyterlab_harness import JupyterLab
from playwright.sync_api import Browser

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
REPOSITORY = Path(__file__).parents[2]
PARTS = ("README.ipynb", "main.py", "jupytext.toml", "rayllm_batch", "util", "configs", "assets")


def engine_processes() -> set[int]:
    return {p.pid for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[0].startswith("VLLM::")}


def test_run_all(browser: Browser, tmp_path: Path) -> None:
    root = tmp_path / "clone"
    root.mkdir()
    for name in PARTS:
        source = REPOSITORY / name
        shutil.copytree(source, root / name) if source.is_dir() else shutil.copy(source, root / name)
    before = engine_processes()
    env = {"ROWS": "8", "MAX_TOKENS": "60", "HOME": str(tmp_path / "user")}
    with JupyterLab(root, tmp_path / "lab", env) as lab, lab.open(browser, "README.ipynb", height=1400) as notebook:
        notebook.run_all()
        notebook.wait_until_idle(seconds=500)
        saved = notebook.save()
        outputs = [output for cell in saved["cells"] for output in cell.get("outputs", [])]
        errors = [output for output in outputs if output["output_type"] == "error"]
        assert not errors, errors
        text = "".join("".join(output.get("text", "")) for output in outputs)
        assert "8 rows, 0 failed" in text and "output tokens/s" in text
        table = notebook.page.locator(".jp-OutputArea table tbody tr")
        assert table.count() == 8
        pictures = REPOSITORY / "test-results"
        pictures.mkdir(exist_ok=True)
        table.first.scroll_into_view_if_needed()
        notebook.page.screenshot(path=str(pictures / "walkthrough.png"))
        assert (root / "main.py").read_text() == (REPOSITORY / "main.py").read_text()
        assert engine_processes() <= before
