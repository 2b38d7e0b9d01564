"""The walkthrough's dataset, loaded from a loopback Hub by the `datasets` library."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer

ROOT = Path(__file__).parents[2]
CARD = """---
configs:
- config_name: 3.0.0
  data_files:
  - split: train
    path: 3.0.0/train-*
  - split: validation
    path: 3.0.0/validation-*
  - split: test
    path: 3.0.0/test-*
---
"""


def add_cnn_dailymail(hub: HubServer, rows: int = 20) -> None:
    """Put `abisee/cnn_dailymail` on the Hub, laid out as the real one, with `rows` short articles a split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = {"README.md": CARD.encode()}
    for split in ("train", "validation", "test"):
        buffer = io.BytesIO()
        articles = [f"Article {i} of {split}. The council met on Monday." for i in range(rows)]
        columns = {"article": articles, "highlights": ["It met."] * rows, "id": [f"{split}{i}" for i in range(rows)]}
        pq.write_table(pa.table(columns), buffer)
        files[f"3.0.0/{split}-00000-of-00001.parquet"] = buffer.getvalue()
    hub.add("datasets", "abisee/cnn_dailymail", files)


def run(code: str, env: dict[str, str]) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_datasets_library_loads_it(hub, hub_env):
    add_cnn_dailymail(hub)
    code = """
import datasets
rows = datasets.load_dataset("abisee/cnn_dailymail", "3.0.0", split="test")
print(len(rows), rows[0]["article"])
"""
    assert "20 Article 0 of test." in run(code, hub_env)
    assert hub.asked("test-00000", "GET") == 1


@pytest.mark.ray
def test_the_workload_loads_it(hub, hub_env):
    add_cnn_dailymail(hub)
    code = """
import ray
from rayllm_batch import CNNDailySummary
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
workload = CNNDailySummary()
ds = workload.load_dataset()
rows = ds.take_all()
print(len(rows), workload.parse_row(rows[0])["messages"][-1]["content"][:40])
"""
    assert "20 Article:\nArticle 0 of test." in run(code, hub_env)
