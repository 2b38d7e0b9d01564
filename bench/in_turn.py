"""Contenders that take turns on one machine, each in a process of its own whose engine is started once.

A contender is a generator: it starts its engine, then yields what it measured for each `work` that is sent to it, a dict with
`seconds` and what else it can tell. All of them answer the same works, A B A B ..., and ratios are those of neighbours.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Generator
from typing import Any

from bench.contenders import kind_of_gpu

# Of each contender on a GPU. The cache's size is given, so that none measures what the others take.
BESIDE_OTHERS = {"gpu_memory_utilization": 0.2, "kv_cache_memory_bytes": 6 << 30}

Work = Found = dict[str, Any]
Contender = Callable[[Work], Generator[Any, Any, None]]


class Running:
    """A contender's process."""

    def __init__(self, name: str, contender: Contender, job: Work) -> None:
        self.name = name
        self._pipe, theirs = multiprocessing.get_context("spawn").Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(contender, job, theirs))
        self._process.start()
        theirs.close()

    def wait_until_ready(self) -> None:
        self._taken()

    def run(self, work: Work) -> Found:
        self._pipe.send(work)
        return self._taken()

    def let_go(self) -> None:
        """It ends by itself; `close` waits for that."""
        self._pipe.close()

    def close(self) -> None:
        self.let_go()
        self._process.join(20)
        self._process.kill()

    def _taken(self) -> Found:
        try:
            kind, found = self._pipe.recv()
        except EOFError:
            kind, found = "failed", "its process ended"
        if kind == "failed":
            raise RuntimeError(f"{self.name}: {found}")
        return found


def compare(
    contenders: dict[str, Contender], job: Work, works: dict[str, Work], pairs: int, *, together: bool = False
) -> dict[str, list[Any]]:
    """Print a table of all works and pairs, and for each work the median ratios to the first contender. Returns what was
    found, in the contenders' order, for each work of the last pair.

    `rows` is what a work counts. together: the engines start at once, where the host has cores for it and no engine
    measures its memory (BESIDE_OTHERS).
    """
    running: list[Running] = []
    last: dict[str, list[Any]] = {}
    ratios: dict[tuple[str, str], list[float]] = {}
    try:
        for name, contender in contenders.items():
            running.append(Running(name, contender, job))
            if not together:
                running[-1].wait_until_ready()
        for one in running if together else ():
            one.wait_until_ready()
        print("| work | pair | contender | rows/s | engine rows/s | ratio |\n|---|---|---|---|---|---|", flush=True)
        for pair in range(1, pairs + 1):
            for of, work in works.items():
                last[of] = []
                for one in running:
                    found = one.run(work)
                    last[of].append(found)
                    ratio = last[of][0]["seconds"] / found["seconds"]
                    ratios.setdefault((of, one.name), []).append(ratio)
                    engine = f"{work['rows'] / found['engine_s']:,.1f}" if "engine_s" in found else "-"
                    rate = f"{work['rows'] / found['seconds']:,.1f}"
                    failed = f", {found['failed']} failed" if found.get("failed") else ""
                    print(f"| {of} | {pair} | {one.name}{failed} | {rate} | {engine} | {ratio:.3f} |", flush=True)
    finally:
        for of in works:
            found = [(one.name, ratios[of, one.name]) for one in running if (of, one.name) in ratios]
            print(f"{of}, median ratios: {', '.join(f'{name} {statistics.median(all):.3f}' for name, all in found)}")
        for one in running:
            one.let_go()
        for one in running:
            one.close()
    return last


def keep_engines() -> None:
    """From now on, in this process, RayLLMBatch.run() leaves its engines ready for the next run, as preview() does."""
    import ray

    from rayllm_batch.measures.snapshot import Snapshot
    from rayllm_batch.run import session, warm

    def kept(of: Any, engines: Any) -> Any:
        warm.keep(engines)
        return Snapshot.of(ray.get(of.monitor.snapshot.remote()))

    session.end = kept


def timed(batch: Any) -> tuple[Any, Found]:
    """What RayLLMBatch.run() returns, and what a contender yields of it."""
    began = time.time()
    answered = batch.run()
    return answered, {
        "seconds": time.time() - began,
        "engine_s": batch.metrics.engine_s,
        "failed": batch.metrics.failed,
    }


def connect(accelerator: str) -> str:
    """Ray for RayLLMBatch, and its name of this machine's accelerator. accelerator: "CPU" or "GPU"."""
    from rayllm_batch.cluster import connection

    if accelerator == "CPU":  # as many cores as its tasks want, whatever the machine has
        import ray

        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        return "CPU"
    connection.connect()
    return kind_of_gpu()


def _serve(contender: Contender, job: Work, pipe: Any) -> None:
    os.dup2(2, 1)  # standard output is the table's
    sys.stdout = sys.stderr
    try:
        turns = contender(job)
        pipe.send(("ready", next(turns)))
        while True:
            work = pipe.recv()
            pipe.send(("found", turns.send(work)))
    except EOFError:
        return
    except BaseException:
        traceback.print_exc()
        pipe.send(("failed", traceback.format_exc().strip().splitlines()[-1]))
