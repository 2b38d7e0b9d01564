"""What other nodes lack of the driver's disk; each node is asked in this process, where it sees all but what is hidden."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from rayllm_batch import init_engine_from_config
from rayllm_batch.cluster.nodes import ANY_SIZE, unlike
from rayllm_batch.errors import ClusterError, DatasetError, OutputError
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.run import node_files
from rayllm_batch.run.node_files import missing_on_nodes

HERE = "h" * 56


class Cluster:
    """The driver on "here". hidden: a folder that is hidden from the node of that name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.hidden: dict[str, Path] = {}
        self.asked: list[dict[str, int]] = []
        self.dead: ClusterError | None = None
        self.add("here", HERE)
        monkeypatch.setattr(ray, "nodes", lambda: self.nodes)
        monkeypatch.setattr(node_files, "here", lambda: HERE)
        monkeypatch.setattr(node_files, "ask", self.ask)

    def add(self, name: str, node_id: str = "", **resources: float) -> None:
        of_node = {"CPU": 4, **resources}
        self.nodes.append({"NodeID": node_id or name, "NodeManagerAddress": name, "Alive": True, "Resources": of_node})

    def ask(self, nodes: dict[str, str], question: Any, files: dict[str, int], about: str) -> dict[str, list[str]]:
        assert question is unlike and HERE not in nodes
        if self.dead:
            raise self.dead
        self.asked.append(files)
        assert not question(files), "this machine has them all"
        hidden = {node: str(self.hidden.get(name, "nothing")) for node, name in nodes.items()}
        return {node: [path for path in files if path.startswith(hidden[node])] for node in nodes}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "merges.txt", "model.safetensors", "README.md", ".gitattributes"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[OutputFolder]:
    with OutputFolder(tmp_path / "out", Job({"model_id": "m"}), "parquet") as opened:
        yield opened


def config(model: object = "org/model", **more: Any) -> Any:
    return init_engine_from_config(
        {"model_id": str(model), "llm_engine": "vllm", "accelerator_type": "CPU", "engine_kwargs": {}, **more}
    )


def test_one_node_is_not_asked(cluster: Cluster, model: Path, folder: OutputFolder) -> None:
    assert missing_on_nodes(config(model), {}, folder) == [] and not cluster.asked


def test_nodes_that_have_all(cluster: Cluster, model: Path, folder: OutputFolder) -> None:
    cluster.add("10.0.0.2")
    assert missing_on_nodes(config(model), {str(model / "README.md"): 9}, folder) == []
    names = {Path(path).name for path in cluster.asked[0]}
    assert (
        names >= {"config.json", "tokenizer.json", "merges.txt", "model.safetensors"} and ".gitattributes" not in names
    )
    left = os.listdir(Path(folder.place.root) / "_rayllm_batch")
    assert not [name for name in left if name.startswith("sign")], "what was written to be looked for is gone"


def test_the_weights_do_not_matter_to_an_engine_without(cluster: Cluster, model: Path) -> None:
    cluster.add("10.0.0.2")
    assert missing_on_nodes(config(model, llm_engine="echo"), {}, None) == []
    assert str(model / "model.safetensors") not in cluster.asked[0] and str(model / "config.json") in cluster.asked[0]


def test_a_name_on_the_hub_is_no_folder(cluster: Cluster) -> None:
    cluster.add("10.0.0.2")
    assert missing_on_nodes(config(), {}, None) == [] and cluster.asked == [{}]


@pytest.mark.parametrize("name", ["model", "out", "data"])
def test_who_lacks_what(name: str, cluster: Cluster, model: Path, folder: OutputFolder, tmp_path: Path) -> None:
    rows = tmp_path / "data" / "rows.jsonl"
    rows.parent.mkdir()
    rows.write_text("{}\n")
    for node in ("10.0.0.2", "10.0.0.3"):
        cluster.add(node)
    cluster.hidden["10.0.0.3"] = tmp_path / name
    (error,) = missing_on_nodes(config(model), {str(rows): 3}, folder)
    assert type(error) is {"model": ClusterError, "out": OutputError, "data": DatasetError}[name]
    assert "Node(s) 10.0.0.3 " in str(error) and "10.0.0.2" not in str(error) and str(tmp_path / name) in str(error)


def test_all_that_is_missing_is_said_at_once(
    cluster: Cluster, model: Path, folder: OutputFolder, tmp_path: Path
) -> None:
    cluster.add("10.0.0.2")
    cluster.hidden["10.0.0.2"] = tmp_path
    found = missing_on_nodes(config(model), {str(model / "config.json"): 11}, folder)
    assert [type(error) for error in found] == [ClusterError, DatasetError, OutputError]


def test_a_node_without_cpus_reads_nothing(cluster: Cluster, folder: OutputFolder, tmp_path: Path) -> None:
    cluster.add("10.0.0.2", CPU=0)
    cluster.add("10.0.0.3")
    cluster.hidden = dict.fromkeys(("10.0.0.2",), tmp_path)
    assert missing_on_nodes(config(), {}, folder) == [] and len(cluster.asked) == 1


def test_a_node_that_does_not_answer(cluster: Cluster, folder: OutputFolder) -> None:
    cluster.add("10.0.0.2")
    cluster.dead = ClusterError("Node(s) 10.0.0.2 did not answer")
    assert missing_on_nodes(config(), {}, folder) == [cluster.dead]


def test_a_folder_of_adapters(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "adapters" / "one").mkdir(parents=True)
    cluster.add("10.0.0.2")
    cluster.hidden["10.0.0.2"] = tmp_path / "adapters"
    adapters = {"dynamic_lora_loading_path": str(tmp_path / "adapters")}
    (error,) = missing_on_nodes(config(lora_config=adapters), {}, None)
    assert type(error) is ClusterError and str(tmp_path / "adapters") in str(error)


def test_what_is_compared(tmp_path: Path) -> None:
    there = tmp_path / "a"
    there.write_text("abc")
    gone, other = str(tmp_path / "gone"), str(there)
    assert unlike({other: 3, str(tmp_path): ANY_SIZE}) == []
    assert unlike({other: 4, gone: 3, f"{gone}2": ANY_SIZE}) == [other, gone, f"{gone}2"]
