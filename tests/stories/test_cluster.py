"""The short form of bench/cluster.py: a real cluster of three nodes, which see neither this repository nor all folders."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from raylets import ROOT, Raylets, can_hide

sys.path.insert(0, str(ROOT))
from bench.cluster import MODEL, Job  # noqa: E402

# Slow: three nodes that start on a small machine are a minute of both cores.
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not can_hide(), reason="mount namespaces are not allowed here"),
]
ROWS = 1500


def test_a_node_that_lacks_things_is_named_and_one_that_goes_loses_nothing():
    import ray

    ray.shutdown()  # one Ray at a time on a small machine
    with tempfile.TemporaryDirectory(prefix="n-") as name, Raylets(Path(name) / "n") as cluster:
        place, private = Path(name), Path(name) / "private"
        for folder in (place / "model", private / "model"):
            shutil.copytree(MODEL, folder)
        cluster.add("head")
        cluster.add("a", gpus=1)
        spot = cluster.add("spot", gpus=1, hidden=[private])

        asks = Job(cluster, place, ROWS, model=str(private / "model"), folder=str(private / "answers"))
        asks.finish(expect=1, check=True)
        assert f"Node(s) {spot.address} lack files of the model" in asks.said, asks.said
        assert f"Node(s) {spot.address} do not see the output folder" in asks.said, asks.said

        job = Job(cluster, place, ROWS)
        driver = job.start()
        job.wait_for_rows(driver, ROWS // 4)
        assert job.written() < ROWS
        spot.kill(2.0)
        job.finish(driver)
        assert job.account() == {"lost": 0, "doubled": 0, "wrong": 0}
        assert f"READ {ROWS}" in job.said
