"""The walkthrough as users run it: the notebook through nbval, main.py as a script; small by its own parameters."""

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
SMALL = {"ROWS": "16", "MAX_TOKENS": "60"}


def small_environment():
    return {**os.environ, **SMALL, "PYTHONPATH": os.getcwd()}


def test_main_py_prints_summaries_and_throughput():
    run = subprocess.run([sys.executable, "main.py"], check=False, env=small_environment(), capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Found no GPU: using the CPU demo" in run.stdout
    assert run.stdout.count("generated_text: ") == 16
    assert "16 rows, 0 failed" in run.stdout and "output tokens/s" in run.stdout
    assert "No row failed." in run.stdout


def test_the_notebook_runs_from_top_to_bottom():
    run = subprocess.run(
        [
            sys.executable, "-m", "pytest", "--nbval-lax", "-x", "--nbval-current-env", "--nbval-cell-timeout", "400",
            "-p", "no:cacheprovider", "README.ipynb",
        ],
        env=small_environment(), check=False, capture_output=True, text=True, timeout=550,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout and "failed" not in run.stdout.splitlines()[-1]
