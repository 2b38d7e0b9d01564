"""The walkthrough's dataset, loaded from a loopback Hub by the `datasets` library."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer

from rayllm_batch.errors import DatasetError
from rayllm_batch.model.hub_client import HubClient
from rayllm_batch.workload import cnn_dailymail

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


@pytest.fixture
def library(isolated, hub, monkeypatch):
    """The datasets library in this process, with that Hub and a cache of its own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", isolated / "datasets")
    # Not the module's name: a test before may have unpickled the class here, whose methods then have globals of their
    # own.
    for method in (HubClient.ask, HubClient._no_answer):
        monkeypatch.setitem(method.__globals__, "CHECK_SECONDS", 1.0)
    return datasets


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


BROKEN = {
    "hanging": "did not answer a question about abisee/cnn_dailymail within 1 s",
    "closed port": "Could not reach",
    "500": "with an error of its own (500)",
    "missing": "There is no public dataset abisee/cnn_dailymail",
    "bad token": "does not accept the token in HF_TOKEN",
}


def break_hub(hub: HubServer, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "closed port":
        monkeypatch.setenv("HF_ENDPOINT", closed_port())
    elif how == "missing":
        del hub.repos["datasets", "abisee/cnn_dailymail"]
    elif how == "bad token":
        monkeypatch.setenv("HF_TOKEN", "hf_revoked")
    else:
        hub.fail("", 500 if how == "500" else 0)


@pytest.mark.parametrize("how", BROKEN)
def test_a_hub_that_does_not_give_it_is_told_from_others(library, hub, monkeypatch, how):
    add_cnn_dailymail(hub)
    break_hub(hub, how, monkeypatch)
    with pytest.raises(DatasetError) as caught:
        cnn_dailymail.articles("test")
    assert BROKEN[how] in str(caught.value) and "dataset_file=" in str(caught.value)
    assert "hf_revoked" not in str(caught.value)
    assert hub.asked("/resolve/") == 0  # the check alone was asked


def test_a_copy_in_the_cache_needs_no_hub(library, hub, monkeypatch, caplog):
    add_cnn_dailymail(hub)
    assert len(cnn_dailymail.articles("test")) == 20
    hub.fail("", 0)
    rows = cnn_dailymail.articles("test")
    assert len(rows) == 20 and rows[0]["article"].startswith("Article 0 of test.")
    assert "The copy of abisee/cnn_dailymail in the cache is used" in caplog.text
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert len(cnn_dailymail.articles("test")) == 20
    with pytest.raises(DatasetError, match="HF_HUB_OFFLINE=1"):
        cnn_dailymail.articles("no such split")
    assert len(hub.requests) == asked


@pytest.mark.ray
def test_the_workload_loads_it(hub, hub_env):
    add_cnn_dailymail(hub)
    code = """
import ray
from rayllm_batch import CNNDailySummary
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
workload = CNNDailySummary()
ds = workload.load_dataset()
rows = ds.take_all()
print(len(rows), workload.parse_row(rows[0])["messages"][-1]["content"][:40])
"""
    assert "20 Article:\nArticle 0 of test." in run(code, hub_env)
