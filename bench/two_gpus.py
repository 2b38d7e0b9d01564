"""Engines of two GPUs, two replicas against one, two nodes of one GPU: everything that one host with two GPUs can show.

    python -m bench.two_gpus --out DIR --models /tmp/models        # both GPUs for some 8 minutes; a line of JSON a step
    python -m bench.two_gpus --out DIR --cpu --only forked spans   # what a machine without GPUs can try of it

--models has the folders 8b and 1b (bench/models.py writes them where they are not there): `load_format: dummy`.

replicas: RayLLMBatch with one replica and with two, which answers twice the rows, in turn, each in a process of its own whose
engines stay (bench/contenders.py), half of each GPU's memory for either. Output tokens/s of each, and their ratio.
All others are small engines in a Ray whose nodes do not see this repository (bench/cluster.py), beside the former's start:
forked, spawned: tensor parallel 2, its engine process made in either way; SIGKILL of one of its two workers.
nodes: two Ray nodes of one GPU each, a replica on either. spans: one engine over both (pipeline parallel 2, Ray's executor);
SIGKILL of the driver, then the same command again. experts: data and expert parallel 2, of a mixture of experts. Lost, doubled, wrong (rows with an error), processes left.
Last: the memory in use on each GPU, before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any, Optional

import psutil

from bench import models, rows
from bench.cluster import Job, Raylets, left_of_groups
from bench.compare import Contender
from bench.contenders import Job as Contest

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = dict(os.environ)
GIB = 1 << 30
# Fixed, so that engines that start beside it change nothing of its measure.
HALF = {"gpu_memory_utilization": 0.42, "kv_cache_memory_bytes": 18 * GIB}
SMALL = {"load_format": "dummy", "max_model_len": 1024, "max_num_seqs": 64, "max_num_batched_tokens": 2048}
SMALL |= {"enforce_eager": True, "gpu_memory_utilization": 0.06, "kv_cache_memory_bytes": GIB // 4}
ON_CPU = {
    "max_model_len": 512,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 1024,
    "dtype": "float32",
    "enforce_eager": True,
}
CONTESTS = {"8b-fp8": 900, "1b": 2500}  # rows of one replica: some 20 s of an H100
PAIRS = 2


# --- one replica, two replicas -------------------------------------------------------------------------------------------


def contest(workload: str, args: argparse.Namespace, start_over: Callable[[], Any]) -> dict[str, Any]:
    """start_over: returns once nothing else uses the GPUs; called when the engines are warm."""
    work = rows.WORKLOADS["demo" if args.cpu else workload]
    folder = args.out / f"replicas-{workload}"
    model = models.make(work.shape, args.models)
    kwargs = work.engine_kwargs | ({} if args.cpu else HALF)
    several: dict[int, Contender] = {}
    for replicas in (1, 2):
        place = folder / str(replicas)
        files = rows.write(work, replicas * (48 if args.cpu else CONTESTS[workload]), model, place)
        its = ("demo" if args.cpu else workload, str(model), *map(str, files), kwargs, time.time(), {})
        gpus = {} if args.cpu else {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(replicas)))}
        os.environ |= {"RAY_ADDRESS": "local", "RAY_TMPDIR": tempfile.mkdtemp(prefix="r"), **gpus}
        several[replicas] = Contender("RayLLMBatch", Contest(*its, num_replicas=replicas, warm=True), place)
        os.environ.clear()
        os.environ |= ENVIRONMENT

    def run(replicas: int, name: str) -> dict[str, Any]:
        return several[replicas].run(folder / str(replicas) / f"{name}.json", 300)

    try:
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(lambda replicas: run(replicas, "warm"), several))
        start_over()
        found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
        for pair in range(PAIRS):
            for replicas, runs in found.items():
                runs.append(run(replicas, f"run-{pair}"))
    finally:
        for contender in several.values():
            contender.close()
    rates = {n: [round(run["output_tokens"] / run["wall_s"]) for run in runs] for n, runs in found.items()}
    return {
        "rows": {n: runs[0]["rows"] for n, runs in found.items()},
        "seconds": {n: [round(run["wall_s"], 1) for run in runs] for n, runs in found.items()},
        "failed": sum(run["failed"] for runs in found.values() for run in runs),
        "output_tokens_per_s": rates,
        "ratio": round(mean(rates[2]) / mean(rates[1]), 3),
        "settings": found[2][-1]["settings"],
        "device": found[2][-1]["device"],
    }


# --- small engines, each step in a process of its own -------------------------------------------------------------------


def tensor_parallel(args: argparse.Namespace, place: Path, env: dict[str, str]) -> dict[str, Any]:
    """Tensor parallel 2; SIGKILL of one of the two workers."""
    with Raylets(place / "n") as cluster:
        node = cluster.add("host", cpus=2, gpus=0 if args.cpu else 2)
        job = _job(args, cluster, place, env, tensor_parallel_size=2)
        began = time.monotonic()
        driver = job.start()
        job.wait_for_rows(driver, 1)
        ready = time.monotonic() - began
        engine = [process for process in node.family() if _is_engines(process)]
        workers = [process for process in engine if _title(process).startswith("VLLM::Worker")]
        # Without titles (tests/support/vllm_processes.py): who started none.
        workers = workers or [one for one in engine if "spawn_main" in _title(one) and not _children(one)]
        forked = any("multiprocessing.forkserver" in _title(parent) for one in engine if (parent := _parent(one)))
        titles, written, killed = [_title(worker)[:60] for worker in workers], job.written(), time.monotonic()
        workers[-1].kill()
        job.wait_for_rows(driver, min(job.rows, written + 1))
        recovered = time.monotonic() - killed
        job.finish(driver)
        logs = place.rglob("rayllm_batch-*.log")
        said = [line.strip()[-200:] for log in logs for line in _lines(log) if "died" in line or "EngineDead" in line]
        return {
            "forked": forked,
            "workers": titles,
            "first_rows_after_s": round(ready),
            "killed_at_rows": written,
            "new_rows_after_s": round(recovered),
            "replicas": job.replicas(),
            "said": said[:3],
            **_end(job, cluster, engine),
        }


def two_nodes(args: argparse.Namespace, place: Path, env: dict[str, str]) -> dict[str, Any]:
    """Two nodes, a replica on either."""
    with _nodes(args, place) as cluster:
        job = _job(args, cluster, place, env, replicas=2)
        job.finish()
        return {"replicas": job.replicas(), **_end(job, cluster)}


def experts(args: argparse.Namespace, place: Path, env: dict[str, str]) -> dict[str, Any]:
    """A mixture of experts, two data parallel copies whose experts are spread over both GPUs."""
    with Raylets(place / "n") as cluster:
        cluster.add("host", cpus=2, gpus=0 if args.cpu else 2)
        spread = {"data_parallel_size": 2, "enable_expert_parallel": True, "load_format": "dummy"}
        job = _job(args, cluster, place, env, model="moe", **spread)
        job.finish()
        return {"replicas": job.replicas(), **_end(job, cluster)}


def over_nodes(args: argparse.Namespace, place: Path, env: dict[str, str]) -> dict[str, Any]:
    """One engine over two nodes; SIGKILL of the driver: its engine's GPUs are free for the next."""
    more: dict[str, Any] = {"pipeline_parallel_size": 2, "distributed_executor_backend": "ray"}
    if args.cpu:  # vLLM's Ray executor knows no CPUs
        more |= {"places_file": str(place / "places"), "seconds_per_request": 0.3}
    with _nodes(args, place) as cluster:
        job = _job(args, cluster, place, env, engine="spans" if args.cpu else "vllm", **more)
        driver = job.start()
        job.wait_for_rows(driver, 1)
        engine = [process for node in cluster.nodes.values() for process in node.family() if _is_engines(process)]
        titles = [_title(process)[:60] for process in engine]
        driver.kill()
        driver.wait()
        written, killed = job.written(), time.monotonic()
        driver = job.start()
        job.wait_for_rows(driver, min(job.rows, written + 1))
        recovered = time.monotonic() - killed
        job.finish(driver)
        return {
            "processes": titles,
            "killed_at_rows": written,
            "new_rows_after_s": round(recovered),
            "replicas": job.replicas(),
            **left_of_groups(cluster, place),
            **_end(job, cluster, engine),
        }


STEPS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, str], int]] = {  # and the seconds that it may take
    "forked": (tensor_parallel, {}, 240),
    "spawned": (tensor_parallel, {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}, 240),
    "nodes": (two_nodes, {}, 200),
    "spans": (over_nodes, {}, 280),
    "experts": (experts, {}, 200),
}
BESIDE = {"8b-fp8": ("forked", "spawned"), "1b": ("nodes", "spans", "experts")}  # whose start


def _nodes(args: argparse.Namespace, place: Path) -> Raylets:
    cluster = Raylets(place / "n")
    try:
        cluster.add("head", cpus=1)
        for i in (0, 1):  # on a CPU, numbers for Ray
            cluster.add(f"gpu-{i}", cpus=1, gpus=1, env={} if args.cpu else {"CUDA_VISIBLE_DEVICES": str(i)})
    except BaseException:
        cluster.__exit__()
        raise
    return cluster


def _job(
    args: argparse.Namespace,
    cluster: Raylets,
    place: Path,
    env: dict[str, str],
    *,
    engine: str = "vllm",
    replicas: int = 1,
    model: str = "1b",
    **kwargs: Any,
) -> Job:
    if args.cpu and model == "1b":  # the nodes do not see the one of this repository
        folder = shutil.copytree(models.DEMO_MODEL, args.models / "demo", dirs_exist_ok=True)
    else:
        folder = models.make(model, args.models)
    given = {"engine": engine, "replicas": replicas, "model": str(folder), "env": env, "stall_s": 900.0}
    if args.cpu:  # a core a worker, which vLLM gives by itself on a machine of two NUMA nodes alone
        given["env"] = {**env, "VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    given["accelerator"] = "CPU" if args.cpu and engine == "vllm" else "GPU"
    return Job(cluster, place, args.rows, **given, engine_kwargs={**(ON_CPU if args.cpu else SMALL), **kwargs})


def _end(job: Job, cluster: Raylets, engine: Iterable[psutil.Process] = ()) -> dict[str, Any]:
    """The account, and which of the engines' processes are left."""
    deadline = time.monotonic() + 15
    while True:
        there = {*engine, *(process for node in cluster.nodes.values() for process in node.family())}
        left = [_title(process) for process in there if _is_engines(process)]
        if not left or time.monotonic() > deadline:
            return {**job.account(), "left": left}
        time.sleep(0.5)


def _is_engines(process: psutil.Process) -> bool:
    said = _title(process)
    return said.startswith(("VLLM::", "ray::RayWorkerProc")) or ("spawn_main" in said and "dashboard" not in said)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip("\0 ")
    except psutil.Error:
        return ""


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.Error:
        return []


def _parent(process: psutil.Process) -> Optional[psutil.Process]:
    try:
        return process.parent()
    except psutil.Error:
        return None


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()


# --- all of it -----------------------------------------------------------------------------------------------------------


def step(name: str, args: argparse.Namespace) -> None:
    """In this process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the nodes are ended then too
    tried, env, _ = STEPS[name]
    with tempfile.TemporaryDirectory(prefix="g-") as place:
        print(json.dumps(tried(args, Path(place), env)), flush=True)


def start(name: str, arguments: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """A step, in a process of its own: what it found, or how it ended."""
    began, limit = time.monotonic(), STEPS[name][2]
    log = args.out / f"{name}.log"
    with log.open("w") as file:
        command = [
            "timeout",
            "--kill-after=20",
            str(limit),
            sys.executable,
            "-m",
            "bench.two_gpus",
            *arguments,
            "--step",
            name,
        ]
        how = {"stdout": file, "stderr": subprocess.STDOUT, "cwd": ROOT, "env": ENVIRONMENT}
        code = subprocess.run(command, check=False, **how).returncode
    lines = _lines(log)
    found = json.loads(lines[-1]) if code == 0 else {"failed": code, "said": lines[-12:]}
    return {"step": name, "s": round(time.monotonic() - began), **found}


def memory() -> Optional[list[int]]:
    """MiB in use on each GPU; None without nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return [int(line) for line in subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path("/tmp/models"))
    parser.add_argument("--rows", type=int, default=3000, help="of a small engine")
    parser.add_argument("--only", nargs="*", choices=[*CONTESTS, *STEPS])
    parser.add_argument("--cpu", action="store_true", help="the demo model; GPUs are numbers for Ray")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.step:
        step(args.step, args)
        return 0
    wanted, began, before, bad = args.only or [*CONTESTS, *STEPS], time.monotonic(), memory(), 0

    def say(found: dict[str, Any]) -> None:
        nonlocal bad
        bad += any(found.get(what) for what in ("failed", "lost", "doubled", "wrong", "left", "groups_left"))
        line = json.dumps(found)
        print(line, flush=True)
        with (args.out / "two_gpus.jsonl").open("a") as file:
            file.write(line + "\n")

    for workload, beside in BESIDE.items():
        with ThreadPoolExecutor(1 if args.cpu else len(beside)) as at_once:
            steps = [at_once.submit(start, name, sys.argv[1:], args) for name in beside if name in wanted]

            def over(steps: Any = steps) -> None:
                for one in steps:
                    say(one.result())

            if workload not in wanted:
                over()
                continue
            try:
                at = time.monotonic()
                found = contest(workload, args, over)
                say({"step": f"replicas {workload}", "s": round(time.monotonic() - at), **found})
            except Exception as error:
                say({"step": f"replicas {workload}", "failed": f"{type(error).__name__}: {error}"[-1500:]})
    deadline = time.monotonic() + 15
    while (after := memory()) and max(after) > max(before or [0]) + 200 and time.monotonic() < deadline:
        time.sleep(0.5)
    if before and after:
        say({"step": "memory", "MiB_before": before, "MiB_after": after, "left": max(after) > max(before) + 200})
    print(json.dumps({"s": round(time.monotonic() - began), "bad": bad}), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
