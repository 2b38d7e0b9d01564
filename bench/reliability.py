"""What is lost when things break: nothing. Breaks real runs in every way it knows, and writes bench/RELIABILITY.md.

    python bench/reliability.py                     # all faults, 20,000 rows each, about 40 minutes on two cores
    python bench/reliability.py --only driver raylet --rows 2000 --times 1
    python bench/reliability.py --add --only driver raylet   # more tries, added to those that the report has
    python bench/reliability.py --task embed --only driver poison --output embed.md    # of a task that pools
    python bench/reliability.py --task embed --vllm --only driver --times 1 --output embed.md   # ... with vLLM, on a CPU
    python bench/reliability.py --task pictures --vllm --rows 300 --only driver engine --output p.md  # a picture each row

Each fault is tried on a job of its own that answers with the echo engine and writes to a folder; the same command is
then run again until the folder is complete. Compared are the rows in the folder's files with the rows of the input
(lost, doubled) and each answer with that of an undisturbed run (wrong). "Computed again" are answers given more than
once, as the engine counts them: what was in flight, or not yet written, when the fault came.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
from vllm_processes import is_engine  # noqa: E402

RESULTS = ROOT / "bench" / "RELIABILITY.md"
PART_NAMES = ("part-*.parquet", "failed-*.parquet")
RUN_SECONDS = 500
# Of each task the column that is compared, and a config; those that pool are tried with faults that need no bad rows.
TASKS = {
    "generate": ("generated_text", "demo-cpu"),
    "embed": ("embedding", "demo-embed-cpu"),
    "classify": ("probabilities", "demo-classify-cpu"),
    "score": ("scores", "demo-embed-cpu"),
    "pictures": ("generated_text", "demo-cpu"),  # of `generate`, with the model of scripts/demo_vlm.py
}
PICTURES = 500  # different ones


# --- the job: a driver of its own ------------------------------------------------------------------------------------


def drive(args: argparse.Namespace) -> None:
    """One driver: the job of `args`, to the folder of `args`."""
    if args.nodes > 1:  # worker nodes do not have this library: what they import, they cannot have from here
        library = tempfile.mkdtemp(prefix="library-")
        shutil.copytree(ROOT / "rayllm_batch", f"{library}/rayllm_batch")
        sys.path[sys.path.index(str(ROOT))] = library
    import ray

    from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config
    from rayllm_batch.engine import ENGINES

    if args.nodes > 1:
        ENGINES.get("echo")  # the driver imports it when it is asked for
        shutil.rmtree(library)
    if args.file_limit_mb:
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.file_limit_mb << 20, args.file_limit_mb << 20))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for left in (2, 1, 0):
        try:
            cluster = start_ray(args.nodes)
            break
        except Exception:  # Ray allows a node 30 s, which is short just after another Ray was killed
            ray.shutdown()
            if not left:
                raise

    class Job(ChatWorkloadBase):
        rows: int = args.rows
        bad: bool = args.bad_rows
        new: bool = args.new_words  # of the workload's fields, which hint that other things may be asked
        sampling_params: dict = {"max_tokens": 12, "temperature": 0.0}  # noqa: RUF012 (as users write it)

        def load_dataset(self):
            import ray.data

            if self.dataset_file:
                return super().load_dataset()
            blocks = max(4, self.rows // 2500)
            return ray.data.range(self.rows, override_num_blocks=blocks).map_batches(
                lambda table: table.append_column("text", [[f"row {i} of the data" for i in table["id"].to_pylist()]]),
                batch_format="pyarrow",
            )

        def parse_row(self, row):
            i = row["id"]
            words = f"{row['text']} asks for an answer"
            if args.new_words and i % 5 == 0:
                words = f"new {words}"
            if self.bad and i % 400 == 100:
                raise ValueError("a bad row")
            if self.bad and i % 400 == 200:
                words = "please fail-here"
            chat: dict[str, Any] = {
                "messages": [{"role": "tool" if self.bad and i % 400 == 300 else "user", "content": words}]
            }
            if self.media_folder:
                name = "gone.png" if self.bad and i % 400 == 50 else f"{i % PICTURES}.png"
                parts = [{"type": "image", "image": name}, {"type": "text", "text": words}]
                chat["messages"][0]["content"] = parts
            if self.bad and i % 400 == 399:
                chat["sampling_params"] = {"temprature": 1}
            return chat

    class Pooled(Job):
        sampling_params: dict = {}  # noqa: RUF012 (nothing is generated)

        def parse_row(self, row):
            words = super().parse_row(row)["messages"][0]["content"]
            return {"query": words, "documents": [words, "row 1"]} if args.task == "score" else {"prompt": words}

    engine = {"max_model_len": 2048, "fail_on": "fail-here", "seconds_per_request": args.seconds_per_request}
    if args.max_num_seqs:
        engine["max_num_seqs"] = args.max_num_seqs
    if args.crash_on:
        engine["crash_on"] = args.crash_on
    if args.calls_file:
        engine["calls_file"] = args.calls_file
    pictures = args.task == "pictures"
    override: dict[str, Any] = {"task": "generate" if pictures else args.task}
    if pictures:
        few = {"max_model_len": 512, "enforce_eager": True, "dtype": "float32", "max_num_seqs": 4}  # to be met at work
        override |= {"model_id": str(args.kept / "vlm"), "engine_kwargs": few}
        engine["max_model_len"] = 512
    if not args.vllm:
        override |= {"llm_engine": "echo", "engine_kwargs": engine}
    config = init_engine_from_config(str(ROOT / "configs" / f"{TASKS[args.task][1]}.yaml"), override=override)
    workload = Job if override["task"] == "generate" else Pooled
    batch = RayLLMBatch(
        config,
        workload(dataset_file=args.dataset_file, media_folder=str(args.kept / "pictures") if pictures else None),
        num_replicas=args.replicas,
        stall_timeout_s=args.stall_timeout_s,
    )
    batch.run(args.folder, retry_failed=args.retry_failed, changed=args.changed)
    print(f"DONE, at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB", flush=True)
    if args.nodes > 1:
        ray.shutdown()
        cluster.shutdown()
        os._exit(0)  # this process would end with 1, since a node was killed


def start_ray(nodes: int) -> Any:
    """One of this process's own, or a cluster of several nodes on this machine, which is returned."""
    import ray

    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if nodes == 1:
        ray.init("local", num_cpus=2, include_dashboard=False, **quiet)
        return None
    # In a folder of its own: where it is killed, it leaves an address behind that the next Ray here would wait for.
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="r-")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, **quiet)
    except Exception:
        cluster.shutdown()
        raise
    return cluster


# --- watching and breaking it ----------------------------------------------------------------------------------------


@dataclass
class Job:
    """A job's folder and how its drivers are started."""

    folder: Path
    rows: int
    options: list[str] = field(default_factory=list)
    answers: tuple[str, ...] = ("old",)  # which are right: those to the workload's old words, to its new ones, either

    @property
    def calls(self) -> Path:
        return self.folder.with_suffix(".calls")

    def start(self, *more: str) -> subprocess.Popen:
        command = [sys.executable, __file__, "drive", "--folder", str(self.folder), "--rows", str(self.rows)]
        command += ["--calls-file", str(self.calls), *self.options, *more]
        log = open(self.folder.with_suffix(".log"), "a", encoding="utf-8")  # noqa: SIM115 (the driver's, until it ends)
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=self.folder.parent,
            start_new_session=True,
            # A shell starts background jobs with SIGINT ignored, and their children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (no threads here)
        )

    def finish(self, *more: str, expect: int = 0) -> None:
        """Run it to its end."""
        driver = self.start(*more)
        try:
            code = driver.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            end(driver)
            raise RuntimeError(f"the job did not end in {RUN_SECONDS} s: {self.log()[-2000:]}") from None
        if (code == 0) != (expect == 0):
            raise RuntimeError(f"the driver ended with {code}: {self.log()[-3000:]}")

    def log(self) -> str:
        return self.folder.with_suffix(".log").read_text(encoding="utf-8", errors="replace")

    def written(self) -> int:
        total = 0
        for ids in (self.folder / "_rayllm_batch" / "rows").glob("*.ids"):
            try:
                total += json.loads(ids.read_bytes().partition(b"\n")[0])["rows"]
            except (ValueError, KeyError, OSError):
                pass
        return total

    def wait_for_rows(self, driver: subprocess.Popen, rows: int) -> bool:
        """Until so many are written, or the driver has ended."""
        deadline = time.time() + RUN_SECONDS
        while self.written() < rows and driver.poll() is None and time.time() < deadline:
            time.sleep(0.05)
        return driver.poll() is None


def end(driver: subprocess.Popen) -> None:
    """SIGKILL a driver, and wait until the Ray that it started has gone after it."""
    family = [driver, *children(driver.pid)]
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs([process for process in family if isinstance(process, psutil.Process)], timeout=5)
    for process in alive:
        process.kill()


def children(pid: int, title: str = "") -> list[psutil.Process]:
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [process for process in found if not title or title in " ".join(_command(process))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def kill_driver(job: Job, rng: random.Random) -> str:
    driver = job.start()
    job.wait_for_rows(driver, int(job.rows * rng.uniform(0.0, 0.9)))
    time.sleep(rng.uniform(0, 2))
    end(driver)
    job.finish()
    return ""


def kill_driver_and_its_successor(job: Job, rng: random.Random) -> str:
    for share in sorted(rng.uniform(0.05, 0.9) for _ in range(2)):
        driver = job.start()
        job.wait_for_rows(driver, int(job.rows * share))
        end(driver)
    job.finish()
    return ""


def kill_engine(job: Job, rng: random.Random) -> str:
    """Of vLLM, which has processes of its own."""
    driver, killed = job.start(), 0
    for share in sorted(rng.uniform(0.0, 0.8) for _ in range(2)):
        if job.wait_for_rows(driver, int(job.rows * share) + 1) and (
            cores := list(filter(is_engine, children(driver.pid)))
        ):
            rng.choice(cores).kill()
            killed += 1
        time.sleep(1)
    wait(driver, job)
    return f"{killed} killed"


def kill_actor(job: Job, rng: random.Random) -> str:
    driver = job.start()
    for share in sorted(rng.uniform(0.0, 0.8) for _ in range(2)):
        if job.wait_for_rows(driver, int(job.rows * share) + 1) and (actors := children(driver.pid, "MapWorker")):
            rng.choice(actors).kill()
        time.sleep(1)
    wait(driver, job)
    return ""


def run_and_lose_a_node(job: Job, rng: random.Random, most: float) -> subprocess.Popen:
    """The job on three nodes, two replicas, after SIGKILL of a worker node's raylet with at most that share of the rows done."""
    driver = job.start("--nodes", "3", "--replicas", "2")
    job.wait_for_rows(driver, int(job.rows * rng.uniform(0.02, most)) + 1)
    raylets = sorted(children(driver.pid, "raylet/raylet"), key=lambda process: process.create_time())
    if len(raylets) < 2:
        raise RuntimeError(f"the driver ended with {driver.poll()} before a node could be killed: {job.log()[-3000:]}")
    rng.choice(raylets[1:]).kill()  # the first is the head's: with it goes the cluster, as with the driver
    return driver


def kill_raylet(job: Job, rng: random.Random) -> str:
    wait(run_and_lose_a_node(job, rng, 0.7), job)
    return ""


def kill_raylet_and_driver(job: Job, rng: random.Random) -> str:
    driver = run_and_lose_a_node(job, rng, 0.3)
    time.sleep(rng.uniform(0, 3))
    end(driver)
    job.finish()
    return ""


def crash_engine(job: Job, rng: random.Random) -> str:
    """A poison row: it alone gets an error."""
    poison = rng.randrange(job.rows)
    job.options += ["--crash-on", f"row {poison} of the data"]
    job.finish()
    failed = [row["id"] for row in rows_of(job.folder) if row["error"]]
    return (
        f"only row {poison} has an error"
        if failed == [poison]
        else f"ROWS WITH ERRORS: {failed[:10]}, poison is {poison}"
    )


def interrupt(job: Job, rng: random.Random) -> str:
    driver = job.start()
    job.wait_for_rows(driver, int(job.rows * rng.uniform(0.05, 0.9)))
    driver.send_signal(signal.SIGINT)
    try:
        driver.wait(60)
    except subprocess.TimeoutExpired:
        end(driver)
        return "DID NOT END"
    job.finish()
    return "" if "Run the same again to continue" in job.log() else "DID NOT SAY HOW TO CONTINUE"


def cut(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def cut_one_of(pattern: str) -> Callable[[Job, random.Random], str]:
    """Of a finished job, one file is cut short, and the same command run again."""

    def fault(job: Job, rng: random.Random) -> str:
        job.finish()
        cut(rng.choice(sorted(job.folder.glob(pattern))), rng)
        job.finish()
        return ""

    return fault


def cut_manifest(job: Job, rng: random.Random) -> str:
    driver = job.start()
    job.wait_for_rows(driver, int(job.rows * rng.uniform(0.1, 0.8)))
    end(driver)
    cut(job.folder / "_rayllm_batch" / "manifest.json", rng)
    job.finish()
    return ""


def disk_full(job: Job, rng: random.Random) -> str:
    with small_disk(job) as limited:
        job.finish(*limited, expect=1)
    job.finish()
    return "" if "cannot be written" in job.log() and "it continues" in job.log() else "DID NOT SAY WHY"


@contextmanager
def small_disk(job: Job) -> Iterator[list[str]]:
    """A disk with room for a part of the output: a small tmpfs, or where that may not be mounted, a limit on file sizes."""
    job.folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(job.folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        yield ["--file-limit-mb", "1"]
        return
    kept = job.folder.with_suffix(".kept")
    try:
        yield []
    finally:
        shutil.copytree(job.folder, kept)
        subprocess.run(["umount", str(job.folder)], check=True)
        job.folder.rmdir()
        kept.rename(job.folder)


def second_driver(job: Job, rng: random.Random) -> str:
    first = job.start()
    job.wait_for_rows(first, job.rows // 10)
    job.finish(expect=1)
    wait(first, job)
    return "" if "Another run is writing" in job.log() else "WAS NOT REFUSED"


def bad_rows(job: Job, rng: random.Random) -> str:
    """1% of the rows fail, a quarter of them in each stage; then a kill; then they are tried again."""
    job.options += ["--bad-rows"]
    kill_driver(job, rng)
    failed = Counter(row["error"].split(":")[0] for row in rows_of(job.folder) if row["error"])
    job.finish("--retry-failed")
    return f"errors by stage: {dict(sorted(failed.items()))}"


def change_the_code(changed: str) -> Callable[[Job, random.Random], str]:
    """A kill; then the workload asks something else for every fifth row, which is refused; then, with a kill between, `changed`."""

    def fault(job: Job, rng: random.Random) -> str:
        driver = job.start()
        job.wait_for_rows(driver, int(job.rows * rng.uniform(0.2, 0.9)))
        end(driver)
        job.finish("--new-words", expect=2)
        said = "something else" in job.log()
        driver = job.start("--new-words", "--changed", changed)
        time.sleep(rng.uniform(5, 30))
        end(driver)
        job.finish("--new-words", "--changed", changed)
        job.answers = ("new",) if changed == "redo" else ("old", "new")
        return "" if said else "DID NOT SAY WHAT WOULD CHANGE"

    return fault


FAULTS: dict[str, tuple[Callable[[Job, random.Random], str], str]] = {
    "driver": (kill_driver, "SIGKILL of the driver, then the same command again"),
    "driver-twice": (kill_driver_and_its_successor, "SIGKILL of the driver and of the run that continues it"),
    "interrupt": (interrupt, "Ctrl-C (SIGINT), then the same command again"),
    "actor": (kill_actor, "SIGKILL of the engine's actor, twice in one run"),
    "engine": (kill_engine, "SIGKILL of the engine's process, up to twice in one run"),
    "raylet": (kill_raylet, "SIGKILL of a worker node's raylet (three nodes, two replicas)"),
    "raylet-driver": (
        kill_raylet_and_driver,
        "SIGKILL of a worker node's raylet, then of the driver, then the same command again",
    ),
    "poison": (crash_engine, "a row that crashes the engine whenever it is tried"),
    "bad-rows": (bad_rows, "1% of the rows fail, in every stage; SIGKILL of the driver; retry_failed"),
    "part": (cut_one_of("part-*.parquet"), "a part file cut short"),
    "ids": (cut_one_of("_rayllm_batch/rows/*.ids"), "the ids of a part cut short"),
    "manifest": (cut_manifest, "SIGKILL of the driver, and the manifest cut short"),
    "disk": (disk_full, "disk full while writing, then room"),
    "two": (second_driver, "a second driver on the same folder"),
    "changed-redo": (
        change_the_code("redo"),
        "SIGKILL of the driver; other words for every fifth row: refused, then redo, killed, redo again",
    ),
    "changed-keep": (change_the_code("keep"), "likewise, and the answers are kept"),
}


# --- the account -----------------------------------------------------------------------------------------------------


@dataclass
class Account:
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    again: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    times: int = 0


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """What stands in the folder's files, read without this library."""
    import pyarrow.parquet

    return [
        row
        for name in PART_NAMES
        for path in sorted(folder.glob(name))
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]


def wait(driver: subprocess.Popen, job: Job) -> None:
    if driver.wait(RUN_SECONDS) != 0:
        raise RuntimeError(f"the driver ended with {driver.returncode}: {job.log()[-3000:]}")


def is_same(answer: Any, other: Any) -> bool:
    """Texts as they are; of vectors, vLLM's sums depend a little on what is computed beside them."""
    if isinstance(answer, str):
        return answer == other
    return len(answer) == len(other) and max(abs(a - b) for a, b in zip(answer, other, strict=True)) < 1e-3


def check(job: Job, undisturbed: dict[str, list[Any]], account: Account, column: str) -> None:
    rows = rows_of(job.folder)
    counts = Counter(row["id"] for row in rows)
    account.lost += sum(i not in counts for i in range(job.rows))
    account.doubled += sum(count - 1 for count in counts.values())
    right = [undisturbed[words] for words in job.answers]
    account.wrong += sum(
        not row["error"] and not any(is_same(row[column], answers[row["id"]]) for answers in right) for row in rows
    )
    answered = sum(not row["error"] for row in rows)
    account.again.append(max(0, job.calls.stat().st_size - answered) if job.calls.exists() else 0)
    account.times += 1


def measure(args: argparse.Namespace) -> dict[str, Account]:
    """Tries the faults, and writes the report anew after each."""
    column, _ = TASKS[args.task]
    kept = args.kept / f"reliability-{'' if args.task == 'generate' else f'{args.task}-'}{args.rows}.json"
    options = ["--seconds-per-request", str(args.seconds_per_request), "--task", args.task, *["--vllm"] * args.vllm]
    options += ["--kept", str(args.kept.resolve())]
    if args.task == "pictures":
        draw(args.kept)
    before = (
        json.loads(kept.read_text(encoding="utf-8"))
        if args.add and kept.exists()
        else {"accounts": {}, "undisturbed": {}}
    )
    accounts = {name: Account(**values) for name, values in before["accounts"].items()}
    with tempfile.TemporaryDirectory(prefix="reliability-") as place:
        faults = args.only or [name for name in FAULTS if args.vllm or name != "engine"]
        undisturbed = before["undisturbed"]
        for words in ("old", "new") if any(name.startswith("changed") for name in faults) else ("old",):
            if words not in undisturbed:
                calm = Job(Path(place) / f"undisturbed-{words}", args.rows, options)
                calm.finish(*(["--new-words"] if words == "new" else []))
                answers = {row["id"]: row[column] for row in rows_of(calm.folder)}
                undisturbed[words] = [answers[i] for i in range(args.rows)]
        for name in faults:
            fault, said = FAULTS[name]
            account = accounts.setdefault(name, Account())
            for turn in range(account.times, account.times + args.times):
                job = Job(Path(place) / f"{name}-{turn}", args.rows, [*options])
                note = fault(job, random.Random(f"{args.seed} {name} {turn}"))
                check(job, undisturbed, account, column)
                if note:
                    account.notes.append(note)
                print(
                    f"{name} {turn + 1}: lost {account.lost}, doubled {account.doubled}, wrong {account.wrong}, "
                    f"computed again {account.again[-1]} {note}",
                    flush=True,
                )
            print(f"{said}: done", flush=True)
            accounts = {name: accounts[name] for name in FAULTS if name in accounts}
            write_report(args, accounts)
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(
                json.dumps({"accounts": {n: asdict(a) for n, a in accounts.items()}, "undisturbed": undisturbed})
            )
    return accounts


def draw(folder: Path) -> None:
    """The pictures of the rows, all different, and the model that looks at them."""
    import numpy as np
    from PIL import Image

    from scripts import demo_vlm

    demo_vlm.make(folder / "vlm")
    (folder / "pictures").mkdir(exist_ok=True)
    for number in range(PICTURES):
        colours = np.random.default_rng(number).integers(0, 255, (90, 60, 3), dtype=np.uint8)
        Image.fromarray(colours).save(folder / "pictures" / f"{number}.png")


def write_report(args: argparse.Namespace, accounts: dict[str, Account], soaked: str = "") -> None:
    import pyarrow
    import ray

    args.output.write_text(
        f"# What is lost when things break\n\n{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, Ray {ray.__version__}, pyarrow {pyarrow.__version__}, {'vLLM' if args.vllm else 'echo engine'}. Made by "
        f"`python bench/reliability.py`, whose first lines say what is counted.\n\n{table(accounts, args.rows)}\n{soaked}",
        encoding="utf-8",
    )


def soak(rows: int) -> str:
    """A long job from a parquet file through one driver, in the blocks that it has on a large GPU: the driver's memory, at a
    tenth of the rows and at all of them."""
    import pyarrow as pa
    import pyarrow.parquet

    peaks = []
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        for count in (rows // 10, rows):
            given = f"{place}/{count}.parquet"
            # As it is, 800 bytes a row: a smaller file would be read by the driver at once.
            with pyarrow.parquet.ParquetWriter(
                given, pa.schema({"id": pa.int64(), "text": pa.string()}), compression="none", use_dictionary=False
            ) as file:
                for begin in range(0, count, 10_000):
                    ids = range(begin, min(begin + 10_000, count))
                    file.write_table(
                        pa.table(
                            {"id": pa.array(ids, pa.int64()), "text": [f"row {i} of the data, " * 40 for i in ids]}
                        )
                    )
            job = Job(
                Path(place) / str(count),
                count,
                ["--seconds-per-request", "0", "--dataset-file", given, "--max-num-seqs", "1024"],
            )
            began = time.time()
            driver = job.start()
            if driver.wait(6 * 3600) != 0:
                raise RuntimeError(job.log()[-3000:])
            peak = int(job.log().rpartition("at most ")[2].split()[0])
            stored = job.written()
            peaks.append(f"{count:,} rows: driver {peak} MiB at most, {stored:,} written, {time.time() - began:.0f} s")
            print(peaks[-1], flush=True)
    return "; ".join(peaks)


def table(accounts: dict[str, Account], rows: int) -> str:
    lines = [
        "| fault | times | rows lost | rows doubled | wrong answers | computed again, most in a run | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, account in accounts.items():
        notes = "; ".join(dict.fromkeys(account.notes))
        lines.append(
            f"| {FAULTS[name][1]} | {account.times} | {account.lost} | {account.doubled} | {account.wrong} | "
            f"{max(account.again, default=0):,} of {rows:,} | {notes} |"
        )
    return "\n".join(lines)


def main(arguments: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs="?", choices=["measure", "drive"], default="measure")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument(
        "--times", type=int, default=3, help="how often each fault is tried, at other moments each time"
    )
    parser.add_argument("--only", nargs="*", choices=list(FAULTS))
    parser.add_argument("--task", choices=list(TASKS), default="generate")
    parser.add_argument("--vllm", action="store_true", help="a real engine, on a CPU, in place of the echo engine")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--seconds-per-request", type=float, default=0.05)
    parser.add_argument(
        "--soak", type=int, default=0, metavar="ROWS", help="also a run of so many rows, for the driver's memory"
    )
    parser.add_argument("--add", action="store_true", help="to what an earlier measurement with as many rows has found")
    parser.add_argument(
        "--kept", type=Path, default=ROOT / "bench" / "results", help="where measurements are kept for that"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    drive_options = parser.add_argument_group("drive: one run of the job, which `measure` starts and breaks")
    drive_options.add_argument("--folder")
    drive_options.add_argument("--calls-file")
    drive_options.add_argument("--nodes", type=int, default=1)
    drive_options.add_argument("--replicas", type=int, default=1)
    drive_options.add_argument("--dataset-file")
    drive_options.add_argument("--max-num-seqs", type=int, default=0)
    drive_options.add_argument("--crash-on", default="")
    drive_options.add_argument("--bad-rows", action="store_true")
    drive_options.add_argument("--retry-failed", action="store_true")
    drive_options.add_argument("--new-words", action="store_true")
    drive_options.add_argument("--changed", default="refuse")
    drive_options.add_argument("--file-limit-mb", type=int, default=0)
    drive_options.add_argument("--stall-timeout-s", type=float, default=120.0)
    args = parser.parse_args(arguments)
    if args.command == "drive":
        drive(args)
        return 0
    accounts = measure(args)
    if args.soak:
        write_report(args, accounts, f"\nA long job (no sleep in the engine): {soak(args.soak)}.\n")
    bad = [name for name, account in accounts.items() if account.lost or account.doubled or account.wrong]
    print(table(accounts, args.rows))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
