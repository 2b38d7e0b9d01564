"""The folders that `init` writes, at work: their own tests pass as they are, and after the two edits."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from rayllm_batch.jobs import job_folder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.mark.parametrize("task", job_folder.TASKS)
def test_its_test_passes(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job_folder.write(str(tmp_path / "job"), task)
    if task == "classify":  # a table of the user's own
        (tmp_path / "mine.csv").write_text("body\nThe match was won.\nShares fell.\n")
        code = (tmp_path / "job" / "workload.py").read_text()
        code = code.replace('"rows.jsonl"', '"../mine.csv"').replace('row["text"]', 'row["body"]')
        (tmp_path / "job" / "workload.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "job"))
    sys.modules.pop("workload", None)
    tests = runpy.run_path(str(tmp_path / "job" / "test_workload.py"))
    tests["test_the_config_can_be_read"]()
    tests["test_the_first_rows"](monkeypatch)
    sys.modules.pop("workload", None)
