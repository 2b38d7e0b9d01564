"""The walkthrough as users run it: the notebook through nbval, main.py as a script; small by its own parameters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
SMALL = {"ROWS": "16", "MAX_TOKENS": "60", "SAMPLE_ROWS": "2"}


def small_environment():
    return {**os.environ, **SMALL, "PYTHONPATH": os.getcwd()}


def test_main_py_prints_summaries_and_throughput():
    run = subprocess.run(
        [sys.executable, "main.py"], check=False, env=small_environment(), capture_output=True, text=True, timeout=500
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Found no GPU: using the CPU demo" in run.stdout
    assert run.stdout.count("generated_text: ") == 2 + 16, "of the preview and of the run"
    assert "<|user|>Article:" in run.stdout and "16 rows on 1 replica (CPU): about" in run.stdout
    assert "kept from before" in run.stdout, "the engine is started once"
    assert "16 rows, 0 failed" in run.stdout and "output tokens/s" in run.stdout


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    """Its cells, as CI steps through them; with the echo engine, since a real JupyterLab runs it with the real one."""
    config = yaml.safe_load(Path("configs/demo-cpu.yaml").read_text(encoding="utf-8"))
    config.update(llm_engine="echo", model_id=str(Path("assets/demo-model").resolve()))
    (tmp_path / "echo.yaml").write_text(yaml.safe_dump(config))
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--nbval-lax",
            "-x",
            "--nbval-current-env",
            "--nbval-cell-timeout",
            "400",
            "-p",
            "no:cacheprovider",
            "README.ipynb",
        ],
        env={**small_environment(), "CONFIG": str(tmp_path / "echo.yaml"), "OUTPUT": str(tmp_path / "summaries")},
        check=False,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert list((tmp_path / "summaries").glob("part-*.parquet"))
    assert " passed" in run.stdout and "failed" not in run.stdout.splitlines()[-1]
