"""The notebooks in examples/, cell by cell, with the model that ships with the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted(Path("examples").glob("*.ipynb"))


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(notebook):
    options = "--nbval-lax -x --nbval-current-env --nbval-cell-timeout 300 -p no:cacheprovider".split()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(notebook)],
        env={key: value for key, value in os.environ.items() if key != "CONFIG"},
        check=False,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout and "failed" not in run.stdout.splitlines()[-1]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_has_no_outputs_and_says_what_the_demo_model_is(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert "The demo model is a toy" in "".join(cells[0]["source"])


def test_there_are_some():
    assert {path.stem for path in NOTEBOOKS} >= {"structured_output", "rollout"}
