"""What becomes of a run on several nodes: a real Ray cluster on this machine, whose nodes join, lack things, and go.

    python -m bench.cluster                            # everything, about 15 minutes on two cores
    python -m bench.cluster --only travel goodbye --rows 2000 --times 1
    python -m bench.cluster --soak --minutes 60 --rows 5000000                  # see bench/soak.py

Each node has a raylet, a temp folder, an object store and an address of its own, and does not see this repository (see
tests/support/raylets.py). Its GPUs are numbers for Ray: one replica of the echo engine fits a node. Compared are the rows
in the folder's files with those of the input (lost, doubled) and each answer with the beginning of its prompt (wrong).
"Recovered" is the time from a node's end to the first rows written after it by replicas that were not on it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from hub_server import HubServer  # noqa: E402
from raylets import Node, Raylets, wait_for  # noqa: E402

from rayllm_batch.engine.echo import Echo, EchoEngine, EchoStarter  # noqa: E402

MODEL = ROOT / "assets" / "demo-model"
OLD = {"ray 2.58.1": "RAY_OTHER_VERSION", "Python 3.12": "RAY_OTHER_PYTHON"}  # a Python each, in the environment
RUN_S = 400.0
TOKEN, ASKS = "0123456789abcdef" * 4, "a cluster that asks for a token"
MAX_TOKENS = 12
PAIR = ("a", "b")  # the nodes beside the head that each scene begins with


# --- engines: the echo engine with one more need each --------------------------------------------------------------------


class OnGPUs(Echo):
    """Has GPUs, as Ray counts them."""

    needs_gpus = True


class Downloads(OnGPUs):
    """Has a model's files too, from the Hub if need be."""

    needs_model = True


class Place:
    def node(self) -> str:
        import ray

        return ray.util.get_node_ip_address()


class Spans(OnGPUs):
    """Over nodes, as vLLM with Ray's executor: an actor with a GPU in each place of its group. places_file: gets their nodes."""

    own_settings = (*Echo.own_settings, "places_file")

    def starter(self, *_: Any) -> SpansStarter:
        return SpansStarter()


class SpansStarter(EchoStarter):
    def start(self, model: str, engine_kwargs: dict[str, Any], decoder: Callable[[], Any]) -> EchoEngine:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = ray.util.get_current_placement_group()
        place = ray.remote(num_cpus=0, num_gpus=1)(Place)
        at = [PlacementGroupSchedulingStrategy(group, i) for i in range(group.bundle_count)]
        self.workers = [place.options(scheduling_strategy=where).remote() for where in at]
        nodes = ray.get([worker.node.remote() for worker in self.workers])
        with open(engine_kwargs["places_file"], "a") as file:
            file.write(json.dumps(nodes) + "\n")
        return super().start(model, engine_kwargs, decoder)


KINDS = {"on-gpus": "OnGPUs", "downloads": "Downloads", "spans": "Spans"}


# --- a driver ---------------------------------------------------------------------------------------------------------


def drive(job: dict[str, Any]) -> None:
    """One driver: on the node at `address`, the job to `folder`, or only its check."""
    import ray

    from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config
    from rayllm_batch.engine import ENGINES

    for name, kind in KINDS.items():
        ENGINES.register(name, f"bench.cluster:{kind}")
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
        stall_timeout_s=job.get("stall_s", 120.0),
    )
    if job.get("check"):
        batch.check(job["folder"])
        return
    if job.get("preview"):  # the run then has the engines that this leaves
        batch.preview(1)
    began = time.time()
    dataset = batch.run(job["folder"])
    replicas = [replica for replica in batch._execution.replicas.values() if replica.rows]
    print("NODES", json.dumps([(replica.node, round(replica.since - began), replica.rows) for replica in replicas]))
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

    def start(self, env: Mapping[str, str] = MappingProxyType({}), **more: Any) -> subprocess.Popen:
        command = [sys.executable, "-m", "bench.cluster", "drive", json.dumps({**self.given, **more})]
        return self.cluster.driver(command, self.log, **env)

    def finish(
        self, driver: Optional[subprocess.Popen] = None, expect: int = 0, within_s: float = RUN_S, **more: Any
    ) -> None:
        driver = driver or self.start(**more)
        try:
            code = driver.wait(within_s)
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
        tables = (pyarrow.parquet.read_table(file, columns=["id", "generated_text", "error"]) for file in files)
        return account(
            (row for table in tables for row in table.to_pylist()), self.rows, of_echo=self.given["engine"] != "vllm"
        )

    def nodes(self) -> list[str]:
        """Which had a replica that answered."""
        return sorted({node for node, _, _ in self.replicas()})

    def replicas(self) -> list[tuple[str, int, int]]:
        """Of each that answered, its node, when it came after the run's begin (s), and its rows."""
        return json.loads(self.said.rpartition("NODES ")[2].partition("\n")[0])


def account(found: Iterable[dict[str, Any]], rows: int, of_echo: bool = True) -> dict[str, int]:
    """Of the rows that are in files, those lost, doubled and wrong; of another engine, wrong are those with an error."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    messages = [{"role": "user", "content": "@@"}]
    before, after = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False).split("@@")
    seen, doubled, wrong, found = bytearray(rows), 0, 0, iter(found)
    while some := list(itertools.islice(found, 4096)):
        prompts = [before + words(row["id"]) + after for row in some]
        asked = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        right = tokenizer.batch_decode([ids[:MAX_TOKENS] for ids in asked], skip_special_tokens=True)
        for row, text in zip(some, right, strict=True):
            doubled += seen[row["id"]]
            seen[row["id"]] = 1
            wrong += bool(row["error"]) or (of_echo and row["generated_text"] != text)
    return {"lost": rows - sum(seen), "doubled": doubled, "wrong": wrong}


# --- what is tried: each returns a job that is complete, the seconds to recover, and a note -----------------------------

Outcome = tuple[Job, Optional[float], str]


def travel(cluster: Raylets, place: Path, rows: int) -> Outcome:
    job = Job(cluster, place, rows)
    job.finish()
    used = job.nodes()
    return job, None, f"replicas on {', '.join(used)}; the driver on 127.0.0.2" if len(used) > 1 else f"ONE NODE {used}"


def grow(cluster: Raylets, place: Path, rows: int) -> Outcome:
    """`num_replicas=(1, 3)`, of which two find room; a node joins, and says good-bye."""
    kwargs = {"max_model_len": 2048, "max_num_seqs": 32, "seconds_per_request": 2.0}
    job = Job(cluster, place, 4 * rows, replicas=[1, 3], engine="on-gpus", engine_kwargs=kwargs)
    driver = job.start()
    job.wait_for_rows(driver, 1)
    began = time.monotonic()
    joined = cluster.add("joins", gpus=1)
    up = time.monotonic() - began
    wait_for("a replica on the new node", lambda: joined.workers("MapWorker"), RUN_S, driver)
    grew, written = time.monotonic() - began, job.written()
    time.sleep(30)
    joined.kill(5.0)
    before, gone = job.written(), time.monotonic()
    job.wait_for_rows(driver, min(4 * rows, before + 1))
    recovered = time.monotonic() - gone
    job.finish(driver)
    del cluster.nodes["joins"]
    there = [(since, answered) for node, since, answered in job.replicas() if node == joined.address]
    note = (
        f"the node was up after {up:.0f} s, its replica began after {grew:.0f} s ({written:,} rows were written) and "
    )
    note += f"answered {sum(answered for _, answered in there):,}; {before:,} were written when it went"
    return job, recovered, note


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


def spans(cluster: Raylets, place: Path, rows: int) -> Outcome:
    """An engine over two nodes; SIGKILL of its driver, whose places another then has; none are left."""
    where = place / f"places-{time.time_ns()}"
    kwargs = {"max_model_len": 2048, "max_num_seqs": 32, "seconds_per_request": 0.3, "places_file": str(where)}
    kwargs |= {"pipeline_parallel_size": 2, "distributed_executor_backend": "ray"}
    job = Job(cluster, place, rows, engine="spans", replicas=1, engine_kwargs=kwargs)
    driver = job.start()
    job.wait_for_rows(driver, rows // 4)
    driver.kill()
    driver.wait()
    before, began = job.written(), time.monotonic()
    driver = job.start(preview=True)
    job.wait_for_rows(driver, min(rows, before + 1))
    recovered = time.monotonic() - began
    job.finish(driver)
    found = left_of_groups(cluster, place)
    nodes = [sorted(json.loads(line)) for line in where.read_text().splitlines()]
    if any(len(set(one)) < 2 for one in nodes) or found != {"groups_left": 0, "gpus_free": 2.0}:
        raise RuntimeError(f"places on {nodes}, {found}")
    return job, recovered, f"{before:,} rows were written; places on {nodes}; {found}"


def left_of_groups(cluster: Raylets, place: Path) -> dict[str, float]:
    """Ray's placement groups that are still there, and the GPUs that are free."""
    code = "import json, ray, time; ray.init(log_to_driver=False); time.sleep(3)\n"
    code += "left = sum(one['state'] != 'REMOVED' for one in ray.util.placement_group_table().values())\n"
    code += "print('LEFT', json.dumps({'groups_left': left, 'gpus_free': ray.available_resources().get('GPU', 0)}))"
    log = place / "groups.log"
    cluster.driver([sys.executable, "-c", code], log).wait(100)
    return json.loads(log.read_text().rpartition("LEFT ")[2])


def download(cluster: Raylets, place: Path, rows: int) -> Outcome:
    """A model on a Hub of this machine; each of two nodes has a cache of its own, and two replicas.

    In a cluster of their own: rows are tokenised on the head too, which needs the Hub's address from its start.
    """
    with HubServer() as hub, Raylets(place / "d", token=cluster.env.get("RAY_AUTH_TOKEN")) as own:
        hub.add("models", "org/tiny", MODEL)
        own.env |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(place / "cache-head")}
        own.add("head", cpus=1)
        for i in (1, 2):
            own.add(f"cache-{i}", cpus=1, gpus=2, env={"HF_HOME": str(place / f"cache-{i}")})
        job = Job(own, place, rows, model="hf://org/tiny", engine="downloads", replicas=4)
        job.finish(job.start(env={"HF_HOME": str(place / "cache-driver")}))
        seen = Counter(
            path.partition("?")[0] for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path
        )
    weights = {name: count for name, count in seen.items() if name.endswith("safetensors")}
    files = sorted(set(seen.values()))
    there = Counter(node for node, _, _ in job.replicas())
    if set(weights.values()) != {2}:
        raise RuntimeError(f"downloads {dict(seen)} on {dict(there)}")
    return job, None, f"replicas {dict(there)}; each file of weights came {weights}, the others {files} times"


def with_token(cluster: Raylets, place: Path, rows: int) -> Outcome:
    """A driver without the token, or with another, is told; a node with another does not come in; with it all runs."""
    job = Job(cluster, place, rows, replicas=1)
    token, notes = cluster.env["RAY_AUTH_TOKEN"], []
    others = {
        "without": {"HOME": str(place)},
        "wrong": {"RAY_AUTH_TOKEN": "f" * 40},
        "off": {"RAY_AUTH_MODE": "disabled"},
    }
    for what, env in others.items():
        began = time.monotonic()
        if what == "without":
            del cluster.env["RAY_AUTH_TOKEN"]
        code = job.start(env=env).wait(RUN_S)
        cluster.env["RAY_AUTH_TOKEN"] = token
        if code == 0:
            raise RuntimeError(f"{what}: it was let in")
        notes.append(f"{what}, {time.monotonic() - began:.0f} s: {job.said.strip().splitlines()[-1]}")
    job.finish()
    holding = [path for path in place.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    if holding:
        raise RuntimeError(f"the token is in {holding}")
    try:
        cluster.add("stranger", env={"RAY_AUTH_TOKEN": "f" * 40}, within_s=40.0)
        raise AssertionError("a node with another token was let in")
    except RuntimeError as error:
        notes.append(f"a node with another: {' '.join(str(error).split())[:700]}")
        if node := cluster.nodes.pop("stranger", None):
            node.close()
    files = sum(path.is_file() for path in place.rglob("*"))
    return job, None, f"{'; '.join(notes)}; the token is in none of {files} files of nodes and answers"


SCENES: dict[str, tuple[Callable[[Raylets, Path, int], Outcome], str]] = {
    "travel": (travel, "the code travels: two replicas on two nodes, the driver on a third"),
    "grow": (grow, "`num_replicas=(1, 3)`: a node joins, and says good-bye"),
    "spans": (spans, "an engine over two nodes; SIGKILL of its driver, then the same command again"),
    "goodbye": (lose(5.0), "a node of three says good-bye (SIGTERM to its raylet, SIGKILL of all 5 s later)"),
    "kill": (lose(None), "a node of three goes without a word (SIGKILL of all its processes)"),
    "driver": (lose_the_driver, "the driver's node goes; the same command on another node"),
    "download": (download, "two replicas on each of two nodes; each node downloads the model once"),
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
    parser.add_argument("--soak", action="store_true", help="one long run, with a fault every half minute")
    parser.add_argument("--minutes", type=float, default=5.0, help="of faults, in a soak")
    parser.add_argument("--only", nargs="*", choices=[*SCENES, "check", "versions", "token"])
    parser.add_argument("--token", action="store_true", help="everything in a cluster that asks for a token")
    args = parser.parse_args(arguments)
    if args.command == "drive":
        drive(json.loads(args.job))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the nodes are ended then too
    wanted = args.only or ([] if args.soak else [*SCENES, "check", "versions", "token"])
    bad = 0
    with tempfile.TemporaryDirectory(prefix="cl-") as place_name:
        place = Path(place_name)
        shutil.copytree(MODEL, place / "model")
        with Raylets(place / "n", token=TOKEN if args.token else None) as cluster:
            cluster.add("head", cpus=1)
            as_before(cluster)
            print(
                "| what happens | tries | lost | doubled | wrong | recovered after, s | |\n|---|---|---|---|---|---|---|"
            )
            for name in [name for name in SCENES if name in wanted]:
                bad += measure(SCENES[name], cluster, place, args.rows, args.times)
            if "token" in wanted and args.token:
                bad += measure((with_token, ASKS), cluster, place, min(args.rows, 2000), 1)
            for what, named, said in [
                *(refusals(cluster, place) if "check" in wanted else ()),
                *(other_versions(cluster, place) if "versions" in wanted else ()),
            ]:
                bad += not named
                print(f"{what}: {'named' if named else 'NOT NAMED'}: {said}", flush=True)
            if args.soak:
                from bench.soak import soak

                bad += soak(cluster, place, args.rows, args.minutes)
        if "token" in wanted and not args.token:
            with Raylets(place / "t", token=TOKEN) as cluster:
                cluster.add("head", cpus=1)
                cluster.add("a", cpus=1, gpus=1)
                bad += measure((with_token, ASKS), cluster, place, min(args.rows, 2000), 1)
    return 1 if bad else 0


def as_before(cluster: Raylets) -> None:
    """The nodes that each scene begins with, after one that has others, or that failed."""
    for left in [name for name in cluster.nodes if name not in ("head", *PAIR)]:
        cluster.nodes.pop(left).close()
    for missing in [name for name in PAIR if name not in cluster.nodes]:
        cluster.add(missing, cpus=1, gpus=1)


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
            as_before(cluster)
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
