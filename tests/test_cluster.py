"""What the cluster is asked before a run, without starting one: Ray's list of nodes is made up."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from rayllm_batch import cluster, init_engine_from_config
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
    config = init_engine_from_config({
        "model_id": "org/model", "llm_engine": llm_engine, "accelerator_type": accelerator, "engine_kwargs": engine_kwargs,
        "engines_per_gpu": engines_per_gpu,
    })
    cluster.check(config, num_replicas)


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
    share = cluster.cpus_per_replica(replicas, gpus)
    assert 0 < share <= 1
    assert share * replicas <= cpus / 2, "or the run would wait for ever"
    if cpus == 64 and replicas < 64:
        assert share == (1.0 if gpus else 0.5)


def fills(free: list[float], replicas: int, share: float, gpus: list[int], per_replica: int) -> bool:
    """Whether the replicas can come to lie so that no node has a whole CPU left: all ways are tried."""
    if replicas == 0:
        return not any(cpu >= 1 for cpu in free)
    for n in range(len(free)):
        if free[n] + 1e-9 >= share and gpus[n] >= per_replica:
            rest = [cpu - share * (i == n) for i, cpu in enumerate(free)]
            if fills([round(cpu, 6) for cpu in rest], replicas - 1, share, [g - per_replica * (i == n) for i, g in enumerate(gpus)], per_replica):
                return True
    return False


CLUSTERS = [[1], [2], [1, 1], [2, 1], [2, 2], [1, 1, 1], [4], [0, 2], [0.5, 2], [3, 1]]


@pytest.mark.parametrize("cpus", CLUSTERS, ids=str)
@pytest.mark.parametrize("gpus", [0, 1], ids=["cpu", "gpu"])
@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 6])
def test_a_job_passes_if_it_can_read_wherever_its_replicas_lie(replicas: int, gpus: int, cpus: list[float], nodes: list) -> None:
    nodes += [node(cpus=cpu, gpus=gpus * replicas, kind="L4" if gpus else None) for cpu in cpus]
    share = cluster.cpus_per_replica(replicas, gpus)
    blocked = fills([float(cpu) for cpu in cpus], replicas, share, [gpus * replicas] * len(cpus), gpus)
    if blocked:
        assert "one whole CPU" in refusal("L4" if gpus else "CPU", replicas)
    else:
        check("L4" if gpus else "CPU", replicas)


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """The address of a server that answers so to whoever connects. That of Ray begins with a frame of HTTP/2."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.recv(100)
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


RAY = b"\0\0\0\4\0\0\0\0\0"


@pytest.fixture
def inits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The addresses that ray.init is given, in a machine where nothing runs."""
    given: list[Any] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: given.append(address))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "a"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "b"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_short", "")
    return given


@pytest.mark.parametrize("variable", ["a", "b"])
def test_a_cluster_that_died_and_left_its_address_is_not_waited_for(variable: str, tmp_path: Path, inits: list[Any]) -> None:
    cluster.connect()
    (tmp_path / variable / "ray").mkdir(parents=True)
    with listening(RAY) as address:
        (tmp_path / variable / "ray" / "ray_current_cluster").write_text(address)
        cluster.connect()
    cluster.connect()  # nobody listens there any more
    assert inits == ["local", address, "local"]


def test_an_address_where_ray_listens_is_used(inits: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(RAY) as address:
        for given in (address, f" {address} ", f"ray://{address}"):
            monkeypatch.setenv("RAY_ADDRESS", given)
            cluster.connect()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    cluster.connect()
    assert inits == [address, address, f"ray://{address}", "local"]


@pytest.mark.parametrize(("given", "said"), [
    ("foo", "is not a cluster's address. It is HOST:PORT"),
    ("10.0.0.1", "is not a cluster's address"),
    ("http://127.0.0.1:8265", "but a dashboard"),
    ("ray://", "is not a cluster's address"),
    ("127.0.0.1:1", "No Ray cluster answers at RAY_ADDRESS='127.0.0.1:1': .*refused"),
    ("ray://127.0.0.1:1", "No Ray cluster answers"),
    ("127.0.0.1:99999", "No Ray cluster answers"),
    ("a host.invalid:6379", "No Ray cluster answers"),
    ("auto", "and none answers"),
])
def test_an_address_where_ray_does_not_listen(given: str, said: str, inits: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", given)
    with pytest.raises(ClusterError, match=said):
        cluster.connect()
    assert not inits


@pytest.mark.parametrize(("answer", "said"), [(b"HTTP/1.1 400 Bad Request\r\n", "is not Ray"), (b"", "is not Ray")])
def test_something_else_listens_there(answer: bytes, said: str, inits: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(answer) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ClusterError, match=said):
            cluster.connect()


@pytest.mark.parametrize(("printed", "error", "said"), [
    ("GCS: Unauthenticated: RPC error: InvalidAuthToken", ConnectionError("Failed to connect"), "asks for a token.*RAY_AUTH_MODE=token"),
    ("", ray.exceptions.AuthenticationError("no token"), "asks for a token"),
    ("", RuntimeError("Version mismatch: the cluster has 2.9"), "cannot be used: RuntimeError: Version mismatch"),
])
def test_a_cluster_that_lets_nobody_in(  # noqa: PLR0917
    printed: str, error: Exception, said: str, inits: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def init(*_: Any, **__: Any) -> None:
        os.write(2, printed.encode())
        raise error

    monkeypatch.setattr(ray, "init", init)
    with listening(RAY) as address, pytest.raises(ClusterError, match=said):
        monkeypatch.setenv("RAY_ADDRESS", address)
        cluster.connect()
    assert capfd.readouterr().err == ""


def test_a_long_tmpdir_is_not_rays(inits: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(ray, "init", lambda *_, **__: seen.append((os.environ.get("RAY_TMPDIR"), os.environ["TMPDIR"])))
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", long := "/tmp/" + "x" * 60)
    cluster.connect()
    assert seen == [("/tmp", "/tmp")] and os.environ["TMPDIR"] == long and "RAY_TMPDIR" not in os.environ
    assert cluster.logs_folder().startswith("/tmp/ray/")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ClusterError, match="TMPDIR=.* is too long.*Set RAY_TMPDIR"):
        cluster.connect()


def test_a_folder_that_ray_cannot_use_is_named(inits: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: Any, **__: Any) -> None:
        raise PermissionError("Permission denied")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ClusterError, match="Ray did not start on this machine: PermissionError: Permission denied.*RAY_TMPDIR"):
        cluster.connect()


@pytest.mark.parametrize(("home", "mode", "has"), [("/proc/none", "token", True), ("/proc/none", "disabled", False), ("/tmp", "token", False)])
def test_without_a_home_the_token_is_in_the_environment(
    home: str, mode: str, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path) if home == "/tmp" else home)
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    cluster._have_a_token()
    assert bool(os.environ["RAY_AUTH_TOKEN"]) == has


@pytest.mark.parametrize(("wanted", "near"), [("A10GG", "A10G"), ("H1OO", "H100"), ("L4S", "L40S"), ("NVIDIA", "Known: A10G"), ("CPUS", "CPU")])
def test_an_accelerator_that_neither_ray_nor_the_cluster_knows(wanted: str, near: str) -> None:
    with pytest.raises(ClusterError, match=f"accelerator_type '{wanted}' is none that Ray or the cluster knows.*{near}"):
        cluster._check_known(wanted, [{"CPU": 2.0}])


@pytest.mark.parametrize("wanted", ["A10G", "H200", "CPU", "GPU", "AMD-INSTINCT-MI210", "MY-OWN"])
def test_an_accelerator_that_one_of_them_knows(wanted: str) -> None:
    cluster._check_known(wanted, [{"CPU": 2.0, "GPU": 1.0, "accelerator_type:MY-OWN": 1.0}])
