"""RayLLMBatch, LLM.generate and ray.data.llm on the same rows, token ids and engine settings, in turn.

    python -m bench.compare --workload 8b                          # one run of each, every one with a fresh engine
    python -m bench.compare --workload 1b --pairs 5 --mode side-by-side --skip ray.data.llm
    python -m bench.compare --workload 8b --table FOLDER           # the tables again, from the results of an earlier call

It prints what each contender measured (bench.contenders says exactly what), the settings that each engine resolved, and
the CPU cores that each of its processes kept busy. One JSON file a run is written as soon as it ends.

--mode says what lives on between the pairs (a pair is one run of every contender):
  separate       nothing: a process, a Ray and an engine of its own for every run. The fairest, and the slowest.
  in-process     all runs of one contender, then all of the next: LLM.generate starts one engine in all, RayLLMBatch and
                 ray.data.llm one Ray (their engines start anew). The pairs are not interleaved.
  side-by-side   interleaved, but LLM.generate's engine and the Rays stay, so that a pair costs one or two engine starts.
                 Two engines then share the GPU's memory (never its time), so each gets gpu_memory_utilization 0.45 unless
                 --engine-kwargs says otherwise. LLM.generate is warm from the second pair on; the others start cold.

Exit status: 0 comparable, 1 a contender failed, 2 settings, rows or token counts differ (it says which).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

import psutil

from bench import models, rows, table
from bench.contenders import CONTENDERS, Job

SAMPLE_EVERY_S = 2.0
SIDE_BY_SIDE_MEMORY = 0.45


class ContenderFailed(Exception):
    """A contender ended, or ran out of time, without a result."""


class Contender:
    """A contender's process. Its output goes to a log file."""

    def __init__(self, name: str, job: Job, folder: Path) -> None:
        self.name, self._log = name, folder / f"{_slug(name)}.log"
        job_file = folder / f"{_slug(name)}.job.json"
        job_file.write_text(
            json.dumps(dataclasses.asdict(dataclasses.replace(job, requested_at=time.time()))), encoding="utf-8"
        )
        env = dict(os.environ)
        if job.on_cpu:
            env.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; unset, vLLM reserves a share of the whole host
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.contenders", name, str(job_file)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )

    def run(self, path: Path, limit_s: float) -> dict[str, Any]:
        """One run's result, which the contender writes to `path`; raises ContenderFailed."""
        watch = CpuWatch(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\n".encode())
        self._process.stdin.flush()
        deadline = time.time() + limit_s
        while not path.exists():
            if self._process.poll() is not None and not path.exists():
                raise ContenderFailed(f"{self.name} ended with status {self._process.returncode}. {self._last_words()}")
            if time.time() > deadline:
                raise ContenderFailed(f"{self.name} gave no result within {limit_s:.0f} s. {self._last_words()}")
            time.sleep(0.2)
        found = json.loads(path.read_text(encoding="utf-8"))
        return {**found, "cores": watch.cores(found["ready_at"], found["ended_at"])}

    def close(self, patience_s: float = 30.0) -> None:
        """End it, its engines and its Ray, and wait for that: the next contender needs the GPU's memory."""
        try:
            started = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.Error:
            started = []
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        _, alive = psutil.wait_procs(started, timeout=10)
        for process in alive:
            try:
                process.kill()
            except psutil.Error:
                pass
        psutil.wait_procs(alive, timeout=10)

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return f"The end of {self._log}:\n" + "\n".join(lines[-15:])


class CpuWatch:
    """Samples the CPU time of a process and of everything it started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._samples: list[tuple[float, dict[int, tuple[str, float]]]] = []
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def cores(self, began: float, ended: float) -> dict[str, float]:
        """Mean cores busy between two moments, by kind of process."""
        self._stop.set()
        within = [sample for sample in self._samples if began <= sample[0] <= ended + SAMPLE_EVERY_S]
        if len(within) < 2:  # too short a run to say
            return {}
        used: dict[str, float] = {}
        for (_, before), (_, after) in zip(within, within[1:]):  # noqa: B905  (neighbours)
            for pid, (kind, seconds) in after.items():
                used[kind] = used.get(kind, 0.0) + seconds - before.get(pid, (kind, 0.0))[1]
        elapsed = within[-1][0] - within[0][0]
        return {kind: round(seconds / elapsed, 3) for kind, seconds in used.items() if seconds / elapsed >= 0.01}

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            sample: dict[int, tuple[str, float]] = {}
            try:
                root = psutil.Process(self._pid)
                family = [root, *root.children(recursive=True)]
            except psutil.Error:
                return
            for process in family:
                try:
                    times = process.cpu_times()
                    kind = "driver" if process.pid == self._pid else _kind(process)
                    sample[process.pid] = (kind, times.user + times.system)
                except psutil.Error:
                    pass
            self._samples.append((time.time(), sample))


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a `timeout` around this ends the contenders too
    folder = Path(options.out) / options.workload
    complete = True
    if not options.table:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            complete = run_all(options, folder)
        except (SystemExit, KeyboardInterrupt):  # what there is so far is worth a table
            complete = False
    results = load(Path(options.table) / options.workload if options.table else folder)
    if not results:
        raise SystemExit("There are no results.")
    print(report(results), flush=True)
    if found := table.differences(results):
        print("\nNOT COMPARABLE:\n" + "\n".join(f"- {line}" for line in found), flush=True)
        raise SystemExit(2)
    raise SystemExit(0 if complete else 1)


def run_all(options: argparse.Namespace, folder: Path) -> bool:
    """Every run of every contender; returns whether all gave a result."""
    if not options.add:  # results of other rows or settings would be taken for this call's
        for stale in folder.glob("[0-9]*-*.json"):
            stale.unlink()
    job = _job(options)
    names = [name for name in table.ORDER if name not in options.skip]
    turns = [(pair, name) for pair in range(1, options.pairs + 1) for name in names]
    if options.mode == "in-process":
        turns.sort(key=lambda turn: names.index(turn[1]))
    running: dict[str, Contender] = {}
    broken: set[str] = set()
    deadline = time.time() + options.limit_s
    try:
        for number, (pair, name) in enumerate(turns):
            if name in broken:
                continue
            if (left := deadline - time.time()) < options.least_s:
                _say(f"stopping: {left:.0f} s are left of --limit-s {options.limit_s:.0f}")
                break
            path = folder / f"{pair}-{_slug(name)}.json"
            path.unlink(missing_ok=True)
            try:
                contender = running.get(name) or running.setdefault(name, Contender(name, job, folder))
                found = {**contender.run(path, left), "pair": pair, "mode": options.mode, "date": _now()}
                path.write_text(json.dumps(found), encoding="utf-8")
                _say(
                    f"pair {pair}, {name}: start {found['start_s']:.1f} s, engine {found['engine_s']:.1f} s, wall "
                    f"{found['wall_s']:.1f} s, {table.speed(found):,.0f} output tokens/s"
                )
            except ContenderFailed as error:
                broken.add(name)
                _say(f"pair {pair}: {error}")
            last = all(later != name for _, later in turns[number + 1 :])
            if name in running and (options.mode == "separate" or last or name in broken):
                running.pop(name).close()
    finally:
        for contender in running.values():
            contender.close(patience_s=5)
    return not broken


def load(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("[0-9]*-*.json"))]
    return [result for result in found if "pair" in result]  # added to a run that has been seen to end


def report(results: list[dict[str, Any]]) -> str:
    first = results[0]
    about = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    pairs = max(result["pair"] for result in results)
    return "\n\n".join(
        [
            f"{first['workload']} ({rows.WORKLOADS[first['workload']].notes}), {first['device']}, {about}, {first['date']}, "
            f"{pairs} pair(s), {first['mode']}; engine settings {json.dumps(first['engine_kwargs'])}"
            + (f"; RayLLMBatch's own {json.dumps(first['ours'])}" if first["ours"] else ""),
            table.summary(results),
            table.settings(results),
            table.cpu(results),
        ]
    )


def _job(options: argparse.Namespace) -> Job:
    work, scratch = rows.WORKLOADS[options.workload], Path(options.scratch)
    model = models.make(work.shape, scratch / "models")
    rows_file, ids_file = rows.write(work, options.rows or work.rows, model, scratch / options.workload)
    engine_kwargs = dict(work.engine_kwargs)
    if options.mode == "side-by-side" and "gpu_memory_utilization" in engine_kwargs:
        engine_kwargs["gpu_memory_utilization"] = SIDE_BY_SIDE_MEMORY
    if options.warm:
        engine_kwargs["enable_prefix_caching"] = False
    return Job(
        workload=options.workload,
        model=str(model.resolve()),
        rows=str(rows_file.resolve()),
        token_ids=str(ids_file.resolve()),
        engine_kwargs={**engine_kwargs, **json.loads(options.engine_kwargs)},
        requested_at=time.time(),
        ours=json.loads(options.ours),
        batch_size=options.batch_size,
        num_replicas=options.num_replicas,
        engines_per_gpu=options.engines_per_gpu,
        warm=options.warm,
    )


def _options(arguments: Optional[list[str]] = None) -> argparse.Namespace:
    out = os.path.join(os.environ.get("OUT", "bench"), "results")
    parser = argparse.ArgumentParser(
        prog="bench.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=rows.WORKLOADS, default="8b")
    parser.add_argument("--rows", type=int, help="how many; the workload says otherwise")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--mode", choices=("separate", "in-process", "side-by-side"), default="separate")
    parser.add_argument("--skip", action="append", choices=CONTENDERS, default=[], help="may be given more than once")
    parser.add_argument("--engine-kwargs", default="{}", metavar="JSON", help="for all three, over the workload's own")
    parser.add_argument("--ours", default="{}", metavar="JSON", help="for RayLLMBatch alone, over those")
    parser.add_argument("--batch-size", type=int, help="RayLLMBatch's; None chooses")
    parser.add_argument("--num-replicas", type=int, default=1, help="RayLLMBatch's")
    parser.add_argument(
        "--engines-per-gpu", type=int, default=1, help="RayLLMBatch's; give gpu_memory_utilization in --engine-kwargs"
    )
    parser.add_argument(
        "--warm",
        action="store_true",
        help="RayLLMBatch keeps its engines between pairs; no prefix caching, which would keep the answers of the last pair",
    )
    parser.add_argument(
        "--limit-s", type=float, default=86400, help="no run starts, and none goes on, after this many seconds"
    )
    parser.add_argument(
        "--least-s", type=float, default=0, help="no run starts with fewer seconds than this left of --limit-s"
    )
    parser.add_argument(
        "--scratch", default="/tmp/bench-scratch", help="folder of dummy models and rows (default %(default)s)"
    )
    parser.add_argument("--out", default=out, help="folder of the results (default %(default)s; $OUT counts)")
    parser.add_argument(
        "--add", action="store_true", help="keep the results that are there (else they are removed first)"
    )
    parser.add_argument("--table", metavar="FOLDER", help="run nothing: print the tables of the results in this folder")
    return parser.parse_args(arguments)


def _kind(process: psutil.Process) -> str:
    """`ray::MapWorker(...)`, `VLLM::EngineCore`, `raylet`: the title that a process gives itself, else its program."""
    title = " ".join(process.cmdline()).strip() or process.name()
    return title.split(" ")[0].rsplit("/", 1)[-1][:60] if not title.startswith("ray::") else title[:60]


def _slug(name: str) -> str:
    return name.lower().replace(".", "-")


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
