"""How vLLM's engine process starts, with a real engine on CPU in a driver of its own."""

import json
import os

import psutil
import pytest
from driver import Driver

from rayllm_batch.engine.forkserver import METHOD, Forkserver
from rayllm_batch.engine.vllm import VLLM

DRIVER = """
import asyncio
import json
import os
import time

import psutil

from rayllm_batch import init_engine_from_config
from rayllm_batch.engine.base import EngineDied, Request
from rayllm_batch.engine.forkserver import Forkserver
from rayllm_batch.engine.reaper import Reaper
from rayllm_batch.engine.vllm import VLLMEngine

os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
config = init_engine_from_config("configs/demo-cpu.yaml")
model, kwargs = config.model_id, {**config.engine_kwargs, "speculative_config": None}
from vllm import AsyncEngineArgs

# On a CPU this sets variables for the engine: before it forks here.
AsyncEngineArgs(model=model, **kwargs).create_engine_config()
reaper, server = Reaper(), Forkserver()


async def answer(engine):
    request = Request(list(range(300, 340)), {"max_tokens": 8, "ignore_eos": True})
    return (await engine.generate(request)).num_generated_tokens


async def main():
    from vllm.v1.engine import utils

    engine = VLLMEngine(model, kwargs, "CPU", None, server)
    told = {"answer": await answer(engine)}
    this = psutil.Process()
    [forkserver] = [child for child in this.children() if "multiprocessing.forkserver" in " ".join(child.cmdline())]
    [engines_core] = forkserver.children()
    engines_core.kill()
    try:
        await answer(engine)
    except EngineDied:
        told["died"] = True
    began = time.monotonic()
    reaper.end_others()
    told["ended soon"] = time.monotonic() - began < 5
    second = VLLMEngine(model, kwargs, "CPU", None, server)
    told["second answer"] = await answer(second)
    told["forked from the same"] = forkserver.is_running() and len(forkserver.children()) == 1
    told["begins as"] = utils.get_mp_context().get_start_method()
    server.serves = False
    told["not served, as"] = utils.get_mp_context().get_start_method()
    server.serves = True
    os.environ["SET_FOR_THE_ENGINE"] = "1"
    told["then as"] = utils.get_mp_context().get_start_method()
    print("TOLD", json.dumps(told), flush=True)
    time.sleep(600)


asyncio.run(main())
"""


@pytest.mark.vllm
def test_engines_are_forked_where_spawned_ones_would_have_no_other_environment(tmp_path):
    with Driver(DRIVER, tmp_path / "log") as driver:
        driver.wait_for("its answers", lambda: "TOLD" in driver.said, 240)
        assert json.loads(
            next(line for line in driver.said.splitlines() if line.startswith("TOLD")).removeprefix("TOLD ")
        ) == {
            "answer": 8,
            "died": True,
            "ended soon": True,
            "second answer": 8,
            "forked from the same": True,
            "begins as": "forkserver",
            "not served, as": "spawn",
            "then as": "spawn",
        }
        family = driver.family()
        driver.process.kill()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert len(family) >= 4, "the forkserver, the resource tracker, the engine's core and its worker"
        assert not alive


@pytest.mark.parametrize(
    "kwargs", [{"numa_bind": True}, {"distributed_executor_backend": "ray"}, {"data_parallel_size": 2}]
)
def test_where_it_does_not_suit_vllm_starts_processes_as_ever(kwargs):
    assert Forkserver.start(kwargs) is None


def test_an_engine_on_a_cpu_has_none(monkeypatch):
    monkeypatch.setattr(
        Forkserver, "start", lambda kwargs: pytest.fail("vLLM sets variables there that a fork would not have")
    )
    VLLM().starter({}, "CPU", 0, None)


def test_the_environment_says_how_processes_start(monkeypatch):
    monkeypatch.setenv(METHOD, "spawn")
    assert Forkserver.start({}) is None


@pytest.fixture
def as_in_an_actor(monkeypatch):
    """What a forkserver's start puts into the environment is not there, and is taken out again."""
    for name in ("RAY_ADDRESS", METHOD):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.ray
@pytest.mark.usefixtures("as_in_an_actor")
def test_on_a_gpu_there_is_one(ray_cluster, monkeypatch):
    monkeypatch.setattr(Forkserver, "__init__", lambda self: None)  # whose imports are tried above
    assert isinstance(Forkserver.start({}), Forkserver)
    assert os.environ["RAY_ADDRESS"] == ray_cluster.get_runtime_context().gcs_address
    assert os.environ[METHOD] == "spawn", "of workers, which the engine starts"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "as_in_an_actor")
def test_without_a_forkserver_vllm_starts_processes_as_ever(monkeypatch):
    def fails(self):
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(Forkserver, "__init__", fails)
    assert Forkserver.start({}) is None
