"""What becomes of a run on several nodes: a real Ray cluster on this machine, whose nodes join, lack things, and go.

    python -m bench.cluster                            # everything, about 15 minutes on two cores
    python -m bench.cluster --only travel goodbye --rows 2000 --times 1

Each node has a raylet, a temp folder, an object store and an address of its own, and does not see this repository (see
tests/support/raylets.py). Its GPUs are numbers for Ray: one replica of the echo engine fits a node. Compared are the rows
in the folder's files with those of the input (lost, doubled) and each answer with the beginning of its prompt (wrong).
"Recovered" is the time from a node's end to the first rows written after it by replicas that were not on it.
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
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from hub_server import HubServer  # noqa: E402
from raylets import Node, Raylets, wait_for  # noqa: E402

MODEL = ROOT / "assets" / "demo-model"
OLD = {"ray 2.58.1": "RAY_OTHER_VERSION", "Python 3.12": "RAY_OTHER_PYTHON"}  # a Python each, in the environment
RUN_S = 400.0
MAX_TOKENS = 12


# --- a driver ---------------------------------------------------------------------------------------------------------


def drive(job: dict[str, Any]) -> None:
    """One driver: on the node at `address`, the job to `folder`, or only its check."""
    import ray

    from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config

    if job.get("node"):
        ray.init(os.environ["RAY_ADDRESS"], _node_ip_address=job["node"], log_to_driver=False, logging_level="ERROR")

    class Rows(ChatWorkloadBase):
        rows: int = job["rows"]
        sampling_params: dict = {"max_tokens": MAX_TOKENS}  # noqa: RUF012 (as users write it)

        def load_dataset(self) -> Any:
            import ray.data

            if self.dataset_file:
                return super().load_dataset()
            return ray.data.range(self.rows, override_num_blocks=max(4, self.rows // 1000))

        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"messages": [{"role": "user", "content": words(row["id"])}]}

    of_kind = {"llm_engine": job["engine"], "model_id": job["model"], "accelerator_type": job["accelerator"]}
    config = init_engine_from_config(
        {**of_kind, "engine_kwargs": job["engine_kwargs"], "runtime_env": {"env_vars": job.get("env", {})}}
    )
    replicas = job["replicas"]
    batch = RayLLMBatch(
        config,
        Rows(dataset_file=job.get("data")),
        num_replicas=replicas if isinstance(replicas, int) else tuple(replicas),
        stall_timeout_s=120.0,
    )
    if job.get("check"):
        batch.check(job["folder"])
        return
    dataset = batch.run(job["folder"])
    print("NODES", json.dumps(Counter(replica.node for replica in batch._execution.replicas.values() if replica.rows)))
    print("READ", dataset.count(), flush=True)


def words(i: int) -> str:
    return f"row {i} of the data asks for an answer"


# --- watching it ------------------------------------------------------------------------------------------------------


class Job:
    """A folder that all nodes see, and the drivers that fill it."""

    def __init__(self, cluster: Raylets, place: Path, rows: int, **given: Any) -> None:
        self.folder = place / f"answers-{len(list(place.iterdir()))}"
        self.cluster, self.rows, self.log = cluster, rows, self.folder.with_suffix(".log")
        kwargs = {"max_model_len": 2048, "max_num_seqs": 32, "seconds_per_request": 0.3}
        of_echo = {"engine": "echo", "accelerator": "GPU", "engine_kwargs": kwargs, "replicas": 2}
        self.given = {"folder": str(self.folder), "rows": rows, "model": str(place / "model"), **of_echo, **given}

    def start(self, **more: Any) -> subprocess.Popen:
        command = [sys.executable, "-m", "bench.cluster", "drive", json.dumps({**self.given, **more})]
        return self.cluster.driver(command, self.log)

    def finish(self, driver: Optional[subprocess.Popen] = None, expect: int = 0, **more: Any) -> None:
        driver = driver or self.start(**more)
        try:
            code = driver.wait(RUN_S)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
            raise RuntimeError(f"the driver did not end: {self.said[-3000:]}") from None
        if (code == 0) != (expect == 0):
            raise RuntimeError(f"the driver ended with {code}: {self.said[-3000:]}")

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def written(self) -> int:
        return sum(json.loads(path.read_bytes().partition(b"\n")[0])["rows"] for path in self._ids())

    def _ids(self) -> list[Path]:
        return list((self.folder / "_rayllm_batch" / "rows").glob("*.ids"))

    def wait_for_rows(self, driver: subprocess.Popen, rows: int) -> None:
        try:
            wait_for(f"{rows} rows", lambda: self.written() >= rows, RUN_S, driver)
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {self.said[-3000:]}") from None

    def account(self) -> dict[str, int]:
        import pyarrow.parquet

        files = [*self.folder.glob("part-*.parquet"), *self.folder.glob("failed-*.parquet")]
        rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
        return account(rows, self.rows, of_echo=self.given["engine"] == "echo")

    def nodes(self) -> list[str]:
        """Which had a replica that answered."""
        return sorted(json.loads(self.said.rpartition("NODES ")[2].partition("\n")[0]))


def account(found: list[dict[str, Any]], rows: int, of_echo: bool = True) -> dict[str, int]:
    """Of the rows that are in files, those lost, doubled and wrong; of another engine, wrong are those with an error."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def right(i: int) -> str:
        messages = [{"role": "user", "content": words(i)}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        return tokenizer.decode(ids[:MAX_TOKENS], skip_special_tokens=True)

    counts = Counter(row["id"] for row in found)
    return {
        "lost": rows - len(counts),
        "doubled": sum(counts.values()) - len(counts),
        "wrong": sum(bool(row["error"]) or of_echo and row["generated_text"] != right(row["id"]) for row in found),
    }


# --- what is tried: each returns a job that is complete, the seconds to recover, and a note -----------------------------

Outcome = tuple[Job, Optional[float], str]


def travel(cluster: Raylets, place: Path, rows: int) -> Outcome:
    job = Job(cluster, place, rows)
    job.finish()
    used = job.nodes()
    return job, None, f"replicas on {', '.join(used)}; the driver on 127.0.0.2" if len(used) > 1 else f"ONE NODE {used}"


def grow(cluster: Raylets, place: Path, rows: int) -> Outcome:
    """`num_replicas=(1, 3)`, of which two find room; a node joins."""
    job = Job(cluster, place, 2 * rows, replicas=[1, 3])
    driver = job.start()
    job.wait_for_rows(driver, 1)
    began = time.monotonic()
    joined = cluster.add("joins", gpus=1)
    took = time.monotonic() - began
    job.finish(driver)
    used = job.nodes()
    joined.kill(5.0)
    del cluster.nodes["joins"]
    return job, None, f"the node was up after {took:.0f} s; replicas on {', '.join(used)}"


def lose(good_bye_s: Optional[float]) -> Callable[[Raylets, Path, int], Outcome]:
    def tried(cluster: Raylets, place: Path, rows: int) -> Outcome:
        spot = cluster.add("spot", gpus=1)
        job = Job(cluster, place, rows, replicas=3)
        driver = job.start()
        job.wait_for_rows(driver, rows // 4)
        spot.kill(good_bye_s)
        before, began = job.written(), time.monotonic()
        job.wait_for_rows(driver, min(rows, before + 1))
        recovered = time.monotonic() - began
        job.finish(driver)
        del cluster.nodes["spot"]
        return job, recovered, f"{before:,} rows were written"

    return tried


def lose_the_driver(cluster: Raylets, place: Path, rows: int) -> Outcome:
    node = cluster.add("drives")
    job = Job(cluster, place, rows)
    driver = job.start(node=node.address)
    job.wait_for_rows(driver, rows // 4)
    driver.send_signal(signal.SIGKILL)
    node.kill()
    driver.wait()
    before, began = job.written(), time.monotonic()
    del cluster.nodes["drives"]
    other = cluster.nodes["a"]
    driver = job.start(node=other.address)
    job.wait_for_rows(driver, min(rows, before + 1))
    recovered = time.monotonic() - began
    job.finish(driver)
    return job, recovered, f"{before:,} rows were written; the driver went on on {other.address}"


def download(cluster: Raylets, place: Path, rows: int) -> Outcome:
    """A model on a Hub of this machine; each node has a cache of its own, and two replicas."""
    with HubServer() as hub:
        hub.add("models", "org/tiny", MODEL)
        env = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        nodes = [cluster.add(f"cache-{i}", cpus=4, env={**env, "HF_HOME": str(place / f"cache-{i}")}) for i in (1, 2)]
        given = {"model": "org/tiny", "engine": "vllm", "accelerator": "CPU", "replicas": 2}
        cluster.env.update(env, HF_HOME=str(place / "cache-driver"))
        kwargs = {"max_model_len": 512, "max_num_seqs": 8, "enforce_eager": True, "dtype": "float32"}
        job = Job(cluster, place, rows, **{**given, "engine_kwargs": kwargs})
        job.finish()
        asked = hub.asked("resolve/", "GET")
        weights = hub.asked("model.safetensors", "GET")
        for node in nodes:
            node.close()
            del cluster.nodes[node.name]
    return job, None, f"replicas on {', '.join(job.nodes())}; {weights} downloads of the weights, {asked} of all files"


SCENES: dict[str, tuple[Callable[[Raylets, Path, int], Outcome], str]] = {
    "travel": (travel, "the code travels: two replicas on two nodes, the driver on a third"),
    "grow": (grow, "`num_replicas=(1, 3)`: a node joins"),
    "goodbye": (lose(5.0), "a node of three says good-bye (SIGTERM to its raylet, SIGKILL of all 5 s later)"),
    "kill": (lose(None), "a node of three goes without a word (SIGKILL of all its processes)"),
    "driver": (lose_the_driver, "the driver's node goes; the same command on another node"),
}


# --- what check() says ------------------------------------------------------------------------------------------------


def refusals(cluster: Raylets, place: Path) -> list[tuple[str, bool, str]]:
    """What is missing, whether the node was named, and what was said."""
    private = place / "private"
    private.mkdir()
    shutil.copytree(MODEL, private / "model")
    rows = private / "rows.jsonl"
    with rows.open("w") as file:  # a smaller one would be read by the driver
        for i in range(700_000):
            file.write(json.dumps({"id": i, "text": "word " * 18}) + "\n")
    node = cluster.add("lacks", gpus=1, hidden=[private])
    cases: dict[str, dict[str, Any]] = {
        "a model's folder": {"model": str(private / "model")},
        "the output's folder": {"folder": str(private / "answers")},
        "a file of the data": {"data": str(rows)},
    }
    found = [_refusal(what, Job(cluster, place, 100, **given), node) for what, given in cases.items()]
    node.close()
    del cluster.nodes["lacks"]
    node = cluster.add("bare", cpus=1, python=python_without(place / "bare-python", "vllm"))
    found.append(_refusal("vLLM", Job(cluster, place, 100, engine="vllm", accelerator="CPU", engine_kwargs={}), node))
    node.close()
    del cluster.nodes["bare"]
    return found


def _refusal(what: str, job: Job, node: Node) -> tuple[str, bool, str]:
    job.finish(expect=1, check=True)
    said = next((line for line in reversed(job.said.splitlines()) if "Error" in line or node.address in line), job.said)
    return what, node.address in said, said


def other_versions(cluster: Raylets, place: Path) -> list[tuple[str, bool, str]]:
    """What Ray and we say to a node, and to a driver, with another Ray or Python."""
    found = []
    for what, variable in OLD.items():
        if not (python := os.environ.get(variable)):
            continue
        try:
            cluster.add("other", python=python)
            said = "IT JOINED"
        except RuntimeError:
            said = _last(cluster.nodes["other"].log)
        cluster.nodes.pop("other").close()
        found.append((f"a node with {what}", "ersion" in said, said))
        log = place / f"{what}.log"
        code = "from rayllm_batch.cluster import connect; connect()"
        cluster.driver([python, "-c", code], log).wait(100)
        found.append((f"a driver with {what}", "ersion" in _last(log), _last(log)))
    return found


def _last(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    start = max((i for i, line in enumerate(lines) if "Error" in line or "ersion" in line), default=0)
    return " ".join(lines[max(0, start - 5) :])[-700:]


def python_without(place: Path, *names: str) -> str:
    """A Python with what this one has, without these packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    packages = next(place.glob("lib/python*/site-packages"))
    for path in next(Path(sys.prefix).glob("lib/python*/site-packages")).iterdir():
        if not path.name.startswith(names):
            (packages / path.name).symlink_to(path)
    return str(place / "bin" / "python")


# --- the account ------------------------------------------------------------------------------------------------------


def main(arguments: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs="?", choices=["measure", "drive"], default="measure")
    parser.add_argument("job", nargs="?", help="drive: the job, as JSON")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=[*SCENES, "check", "versions", "download", "token"])
    args = parser.parse_args(arguments)
    if args.command == "drive":
        drive(json.loads(args.job))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the nodes are ended then too
    wanted = args.only or [*SCENES, "check", "versions", "download", "token"]
    bad = 0
    with tempfile.TemporaryDirectory(prefix="cl-") as place_name:
        place = Path(place_name)
        shutil.copytree(MODEL, place / "model")
        with Raylets(place / "n") as cluster:
            cluster.add("head", cpus=1)
            for name in "ab":
                cluster.add(name, cpus=1, gpus=1)
            print(
                "| what happens | tries | lost | doubled | wrong | recovered after, s | |\n|---|---|---|---|---|---|---|"
            )
            for name in [name for name in SCENES if name in wanted]:
                bad += measure(SCENES[name], cluster, place, args.rows, args.times)
            for what, named, said in [
                *(refusals(cluster, place) if "check" in wanted else ()),
                *(other_versions(cluster, place) if "versions" in wanted else ()),
            ]:
                bad += not named
                print(f"{what}: {'named' if named else 'NOT NAMED'}: {said}", flush=True)
        if "download" in wanted:
            with Raylets(place / "d") as cluster:
                cluster.add("head", cpus=0)
                said = "vLLM on CPU on two nodes that are not the driver's; each downloads the model"
                bad += measure((download, said), cluster, place, 64, 1)
        if "token" in wanted:
            with Raylets(place / "t", token="0123456789" * 4) as cluster:
                cluster.add("head", cpus=1)
                cluster.add("a", cpus=1, gpus=1)
                said = "a cluster that asks for a token, one replica"
                bad += measure((with_token, said), cluster, place, 2000, 1)
    return 1 if bad else 0


def with_token(cluster: Raylets, place: Path, rows: int) -> Outcome:
    """The driver without the token is told, the one with it runs."""
    job = Job(cluster, place, rows, replicas=1)
    token = cluster.env.pop("RAY_AUTH_TOKEN")
    cluster.env["RAY_AUTH_TOKEN_PATH"] = "/nonexistent"
    job.finish(expect=1)
    said = job.said.strip().splitlines()[-1]
    del cluster.env["RAY_AUTH_TOKEN_PATH"]
    cluster.env["RAY_AUTH_TOKEN"] = token
    job.finish()
    return job, None, f"without it: {said}"


def measure(
    tried: tuple[Callable[[Raylets, Path, int], Outcome], str], cluster: Raylets, place: Path, rows: int, times: int
) -> int:
    """Prints a row; returns how many tries went wrong."""
    scene, said = tried
    totals, seconds, notes, bad = Counter(), [], [], 0
    for _ in range(times):
        try:
            job, recovered, note = scene(cluster, place, rows)
        except Exception as error:
            bad += 1
            notes.append(f"FAILED: {type(error).__name__}: {error}")
            for left in [node for node in cluster.nodes if node not in ("head", "a", "b")]:
                cluster.nodes.pop(left).close()
            continue
        account = job.account()
        bad += any(account.values())
        totals.update(account)
        seconds += [] if recovered is None else [recovered]
        notes.append(note)
    took = f"{min(seconds):.0f} to {max(seconds):.0f}" if seconds else ""
    counts = " | ".join(str(totals[what]) for what in ("lost", "doubled", "wrong"))
    print(f"| {said} | {times} | {counts} | {took} | {'; '.join(dict.fromkeys(notes))} |", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
