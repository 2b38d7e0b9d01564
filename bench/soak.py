"""A long run over three nodes, in which something breaks every half minute: what is lost, and what grows.

    python -m bench.cluster --soak --minutes 60 --rows 5000000    # two cores answer 500 to 750 a second

The cluster and the account are those of bench/cluster.py. Faults, drawn at random, the same in each run: an engine's actor
killed or stopped for 10 s, a node killed or sent away with a word (another joins in its place), the driver killed and the
same command given again. When the minutes are over the run goes on without faults to its end. Of the driver (each life of
it) and of Ray's head: memory of its own (MiB, without pages shared with others) and open file handles, every 5 s.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import Any

import psutil

from bench.cluster import RUN_S, Job, Raylets

EVERY_S, SAMPLE_S, STOPPED_S = 30.0, 5.0, 10.0
FAULTS = ["engine"] * 4 + ["stop"] * 2 + ["node"] * 2 + ["goodbye"] * 2 + ["driver"]
LIFE_S = 60.0  # a driver's own start; what it has afterwards should stay
REPLICAS = 3


class Soak:
    def __init__(self, cluster: Raylets, job: Job) -> None:
        self.cluster, self.job, self.draw = cluster, job, random.Random(1)
        self.driver = job.start()
        self.met: Counter[str] = Counter()
        self.began = time.monotonic()
        self.samples: dict[str, list[tuple[float, float, int]]] = {}
        self._over = threading.Event()
        self._sampling = threading.Thread(target=self._sample, daemon=True)
        self._sampling.start()

    def run(self, minutes: float) -> None:
        self.job.wait_for_rows(self.driver, 1)
        until = time.monotonic() + 60 * minutes
        while (at := time.monotonic()) < until and self.driver.poll() is None:
            fault = self.draw.choice(FAULTS)
            if self._break(fault):
                self.met[fault] += 1
                self._say({"fault": fault, "s": round(at - self.began), "rows": self.job.written()})
            while time.monotonic() < min(until, at + EVERY_S) and self.driver.poll() is None:
                time.sleep(0.5)
        self._say({"faults": dict(self.met), "s": round(time.monotonic() - self.began), "rows": self.job.written()})
        self.job.finish(self.driver, within_s=RUN_S + 60 * minutes)
        self._over.set()
        self._sampling.join()

    def _break(self, fault: str) -> bool:
        name = self.draw.choice([name for name in self.cluster.nodes if name != "head"])
        node = self.cluster.nodes[name]
        if fault in ("engine", "stop"):
            if not (workers := node.workers("MapWorker")):
                return False  # it is starting again
            worker = self.draw.choice(workers)
            try:
                worker.send_signal(signal.SIGKILL if fault == "engine" else signal.SIGSTOP)
            except psutil.Error:
                return False
            if fault == "stop":
                time.sleep(STOPPED_S)
                worker.resume()
        elif fault == "driver":
            self.driver.kill()
            self.driver.wait()
            self.driver = self.job.start()
        else:
            node.kill(5.0 if fault == "goodbye" else None)
            del self.cluster.nodes[name]
            self.cluster.add(f"{name[0]}{sum(self.met.values())}", gpus=1)
        return True

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            seen = {_name(process): process for process in self.cluster.nodes["head"].family()}
            try:
                seen[f"driver {self.driver.pid}"] = psutil.Process(self.driver.pid)
            except psutil.Error:  # between one driver and the next
                pass
            for name, process in seen.items():
                if name.startswith(("driver", "gcs_server", "raylet")):
                    try:
                        memory = process.memory_info()
                        found = time.monotonic() - self.began, (memory.rss - memory.shared) / 2**20, process.num_fds()
                    except psutil.Error:
                        continue
                    self.samples.setdefault(name, []).append(found)

    def growth(self) -> list[dict[str, Any]]:
        """Of each process that lived for long: the means of the first and the last quarter, after its start."""
        lives = []
        for name, samples in self.samples.items():
            settled = [sample for sample in samples if sample[0] >= samples[0][0] + LIFE_S]
            if len(settled) < 8:
                continue
            quarter = len(settled) // 4
            first, last = settled[:quarter], settled[-quarter:]
            of = {"process": name.split(" ")[0], "minutes": round((samples[-1][0] - samples[0][0]) / 60, 1)}
            for i, what in ((1, "MiB"), (2, "handles")):
                of[what] = [round(mean(sample[i] for sample in part)) for part in (first, last)]
                of[f"most {what}"] = round(max(sample[i] for sample in samples))
            lives.append(of)
        return lives

    def _say(self, what: dict[str, Any]) -> None:
        print(json.dumps(what), flush=True)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def soak(cluster: Raylets, place: Path, rows: int, minutes: float) -> int:
    """Prints what it found; 1 where rows were lost, doubled or wrong, else 0. The cluster gets as many nodes as replicas."""
    for i in range(REPLICAS - len(cluster.nodes) + 1):
        cluster.add(f"s{i}", gpus=1)
    job = Job(cluster, place, rows, engine="on-gpus", replicas=REPLICAS)
    test = Soak(cluster, job)
    test.run(minutes)
    took, account = time.monotonic() - test.began, job.account()
    print(json.dumps({"rows": rows, "seconds": round(took), "faults": dict(test.met), **account}), flush=True)
    for life in test.growth():
        print(json.dumps(life), flush=True)
    return int(any(account.values()))
