"""What a type checker says of a user's workload: the package ships its types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

JOB = """
from typing import Any
from rayllm_batch import ChatWorkloadBase, CNNDailySummary

class Triage(ChatWorkloadBase):
    team: str
    examples: int = 3
    sampling_params = {"max_tokens": 3}

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": self.team}

Triage(team="sales", dataset_file="tickets.csv", examples=2)
CNNDailySummary("articles.jsonl", 0.5)
Triage(taem="sales")
"""


def test_fields_of_a_subclass_are_arguments_and_a_typing_error_is_found(tmp_path: Path) -> None:
    job = tmp_path / "job.py"
    job.write_text(JOB, encoding="utf-8")
    options = ["--config-file", "", "--follow-imports=silent", "--ignore-missing-imports", "--cache-dir", str(tmp_path)]
    found = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(job)], capture_output=True, text=True, check=False
    )
    errors = [line for line in found.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1 and ":15: " in errors[0] and '"taem"' in errors[0], found.stdout + found.stderr
