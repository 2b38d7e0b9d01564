"""What the cluster is asked before a run, without starting one: Ray's list of nodes is made up."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from rayllm_batch import init_engine_from_config
from rayllm_batch.cluster import resources
from rayllm_batch.errors import ClusterError


def node(cpus: float = 16, gpus: int = 0, kind: str | None = None, alive: bool = True) -> dict[str, Any]:
    resources: dict[str, float] = {"CPU": cpus, "memory": 1e10, "node:10.0.0.1": 1.0}
    if gpus:
        resources["GPU"] = gpus
    if kind:
        resources[f"accelerator_type:{kind}"] = 1.0
    return {"Alive": alive, "Resources": resources}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The cluster's nodes; a test fills it."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "nodes", lambda: made)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": sum(n["Resources"]["CPU"] for n in made)})
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("these tests start no Ray"))
    return made


def check(
    accelerator: str, num_replicas: int = 1, llm_engine: str = "vllm", engines_per_gpu: int = 1, **engine_kwargs: Any
) -> None:
    config = init_engine_from_config(
        {
            "model_id": "org/model",
            "llm_engine": llm_engine,
            "accelerator_type": accelerator,
            "engine_kwargs": engine_kwargs,
            "engines_per_gpu": engines_per_gpu,
        }
    )
    resources.check(config, num_replicas)


def refusal(*given: Any, **engine_kwargs: Any) -> str:
    with pytest.raises(ClusterError) as caught:
        check(*given, **engine_kwargs)
    return str(caught.value)


def test_a_job_that_fits(nodes: list) -> None:
    nodes += [node(gpus=4, kind="A10G"), node(gpus=4, kind="A10G")]
    check("A10G")
    check("a10g", 8)
    check("A10G", 2, tensor_parallel_size=4)
    check("A10G", 2, tensor_parallel_size=2, pipeline_parallel_size=2)


def test_engines_that_share_gpus(nodes: list) -> None:
    nodes += [node(gpus=1, kind="H100"), node(gpus=2, kind="H100")]
    check("H100", 6, engines_per_gpu=2)
    check("H100", 9, engines_per_gpu=3)
    message = refusal("H100", 8, engines_per_gpu=2)  # four replicas of two engines, as the user counts them
    for words in ("num_replicas=4", "4 x 1 H100", "room for 3 replica(s)", "Set num_replicas=3"):
        assert words in message


def test_no_gpu(nodes: list) -> None:
    nodes.append(node(cpus=8))
    message = refusal("A10G")
    for words in ("A10G", "has no GPU", "8 CPUs on 1 node", "configs/demo-cpu.yaml"):
        assert words in message


def test_another_accelerator_names_what_is_there(nodes: list) -> None:
    nodes += [node(gpus=8, kind="H100"), node(gpus=1, kind="L4")]
    message = refusal("A100")
    for words in ("No node has the accelerator A100", "8 x H100", "1 x L4", "32 CPUs on 2 nodes", "(H100, L4)"):
        assert words in message
    assert "Did you mean 'H100'?" in refusal("H10")


def test_a_gpu_that_ray_cannot_name(nodes: list) -> None:
    nodes.append(node(gpus=2))
    assert "2 x GPU of unknown type" in refusal("A10G")
    check("GPU", 2)


def test_a_dead_node_has_nothing(nodes: list) -> None:
    nodes += [node(gpus=8, kind="H100", alive=False), node()]
    message = refusal("H100")
    assert "has no GPU" in message and "x H100" not in message and "on 1 node" in message


def test_more_gpus_a_replica_than_a_node_has(nodes: list) -> None:
    nodes += [node(gpus=4, kind="A100"), node(gpus=2, kind="A100")]
    message = refusal("A100", 1, tensor_parallel_size=8)
    for words in ("needs 8 A100 GPUs on one node", "largest node has 4", "6 x A100", "Lower tensor_parallel_size"):
        assert words in message
    assert "needs 8 A100" in refusal("A100", 1, tensor_parallel_size=4, pipeline_parallel_size=2)


def test_more_replicas_than_there_is_room_for(nodes: list) -> None:
    nodes += [node(gpus=3, kind="L40S"), node(gpus=2, kind="L40S")]
    message = refusal("L40S", 3, tensor_parallel_size=2)
    for words in ("num_replicas=3", "3 x 2 L40S", "room for 2 replica(s)", "5 x L40S", "Set num_replicas=2"):
        assert words in message, "a replica does not straddle nodes: 3 GPUs hold one of 2, and so do 2"
    check("L40S", 2, tensor_parallel_size=2)


def test_accelerator_type_gpu_takes_any_kind(nodes: list) -> None:
    nodes += [node(gpus=1, kind="H100"), node(gpus=1, kind="L4")]
    check("GPU", 2)
    assert "room for 2" in refusal("GPU", 3)


@pytest.mark.parametrize(("accelerator", "llm_engine"), [("CPU", "vllm"), ("H100", "echo")])
def test_no_gpu_is_asked_for(accelerator: str, llm_engine: str, nodes: list) -> None:
    nodes.append(node(cpus=2))
    check(accelerator, 4, llm_engine, tensor_parallel_size=8)


def test_a_cluster_without_a_cpu(nodes: list) -> None:
    nodes.append(node(cpus=0, gpus=1, kind="H100"))
    for accelerator in ("CPU", "H100"):
        message = refusal(accelerator)
        assert "one whole CPU" in message and "num_cpus=2" in message
    nodes[:] = [node(cpus=1), node(cpus=1)]  # a replica on each, and no node has a whole CPU left
    assert "2 CPUs on 2 nodes" in refusal("CPU", 2)
    nodes[:] = [node(cpus=2)]
    check("CPU", 8)


@pytest.mark.parametrize("cpus", [1, 2, 4, 8, 64])
@pytest.mark.parametrize("replicas", [1, 2, 6, 8, 13, 300])
@pytest.mark.parametrize("gpus", [0, 1])
def test_replicas_leave_cpus_for_the_stage_before_them(cpus: int, replicas: int, gpus: int, nodes: list) -> None:
    nodes.append(node(cpus=cpus))
    share = resources.cpus_per_replica(replicas, gpus)
    assert 0 < share <= 1
    kept = share + resources.RELAY_CPUS  # where its engine was kept, an actor beside it passes blocks on
    assert kept * replicas <= cpus / 2 + 1e-9, "or the run would wait for ever"
    if cpus == 64 and replicas < 64:
        assert kept == (1.0 if gpus else 0.5)


def fills(free: list[float], replicas: int, share: float, gpus: list[int], per_replica: int) -> bool:
    """Whether the replicas can come to lie so that no node has a whole CPU left: all ways are tried."""
    if replicas == 0:
        return not any(cpu >= 1 for cpu in free)
    for n in range(len(free)):
        if free[n] + 1e-9 >= share and gpus[n] >= per_replica:
            rest = [cpu - share * (i == n) for i, cpu in enumerate(free)]
            if fills(
                [round(cpu, 6) for cpu in rest],
                replicas - 1,
                share,
                [g - per_replica * (i == n) for i, g in enumerate(gpus)],
                per_replica,
            ):
                return True
    return False


CLUSTERS = [[1], [2], [1, 1], [2, 1], [2, 2], [1, 1, 1], [4], [0, 2], [0.5, 2], [3, 1]]


@pytest.mark.parametrize("cpus", CLUSTERS, ids=str)
@pytest.mark.parametrize("gpus", [0, 1], ids=["cpu", "gpu"])
@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 6])
def test_a_job_passes_if_it_can_read_wherever_its_replicas_lie(
    replicas: int, gpus: int, cpus: list[float], nodes: list
) -> None:
    nodes += [node(cpus=cpu, gpus=gpus * replicas, kind="L4" if gpus else None) for cpu in cpus]
    share = resources.cpus_per_replica(replicas, gpus)
    blocked = fills([float(cpu) for cpu in cpus], replicas, share, [gpus * replicas] * len(cpus), gpus)
    if blocked:
        assert "one whole CPU" in refusal("L4" if gpus else "CPU", replicas)
    else:
        check("L4" if gpus else "CPU", replicas)


@pytest.mark.parametrize(
    ("wanted", "near"),
    [("A10GG", "A10G"), ("H1OO", "H100"), ("L4S", "L40S"), ("NVIDIA", "Known: A10G"), ("CPUS", "CPU")],
)
def test_an_accelerator_that_neither_ray_nor_the_cluster_knows(wanted: str, near: str) -> None:
    with pytest.raises(
        ClusterError, match=f"accelerator_type '{wanted}' is none that Ray or the cluster knows.*{near}"
    ):
        resources._check_known(wanted, [{"CPU": 2.0}])


@pytest.mark.parametrize("wanted", ["A10G", "H200", "CPU", "GPU", "AMD-INSTINCT-MI210", "MY-OWN"])
def test_an_accelerator_that_one_of_them_knows(wanted: str) -> None:
    resources._check_known(wanted, [{"CPU": 2.0, "GPU": 1.0, "accelerator_type:MY-OWN": 1.0}])
