"""Runs as their figures would be: full, starved, small, failed. For tests of the report."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any
from unittest import mock

from answers import a_failure, an_answer

from rayllm_batch.measures import history
from rayllm_batch.measures.history import History
from rayllm_batch.measures.metrics import RunMetrics, row_stats
from rayllm_batch.measures.row_stats import Counts, RowStats
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot

NASTY = "<script>alert('x')</script><img src=https://example.org/x.png onerror=\"alert(1)\"> & </style> &amp;"
START_S = 40


class SampleRun:
    """One replica that runs up to 256 requests.

    seconds: of generating, after the start. feed: the share of the 256 that has a row.
    tail_s: how long the last ones take.
    """

    def __init__(
        self,
        seconds: int = 300,
        *,
        feed: float = 1.0,
        waiting: int = 60,
        tail_s: int = 10,
        kv: float = 0.6,
        gpu: float | None = 0.9,
    ) -> None:
        self.history, self.seconds = History(began=0.0), seconds
        draw, rows, running = random.Random(3), 0, feed * 256
        in_engine = running + waiting
        for second in range(1, START_S + seconds + 5):
            left_s = START_S + seconds - second
            if second <= START_S:
                replica = ReplicaState()
            else:
                if left_s >= tail_s:
                    rows += round(running / 16)
                else:  # no row is left but those in the engine
                    done = min(in_engine, round((running + waiting) / tail_s) or 1)
                    rows, in_engine = rows + done, in_engine - done
                now_running = min(running, in_engine)
                replica = self.replica(round(rows))
                replica.running = now_running and now_running - draw.randrange(4) * (left_s >= tail_s)
                replica.waiting, replica.in_flight = in_engine - now_running, in_engine
                replica.kv_cache_usage = kv * now_running / 256
                if gpu is not None:
                    replica.gpu_utilization = gpu * (0.97 + 0.05 * draw.random()) if now_running else 0.0
            with mock.patch.object(history.time, "time", return_value=float(second)):
                self.history.observe(Snapshot({"a": replica}))
        stats = RowStats()
        rows = round(rows)
        for n in range(rows):
            length = int(draw.lognormvariate(6.7, 0.4))
            answer_length = min(150, int(draw.lognormvariate(4.4, 0.5)))
            reason = "length" if answer_length == 150 else "stop"
            stats.add(an_answer(f"Answer {n}: {NASTY}", length, answer_length, reason), draw.uniform(5, 30))
        one = self.replica(rows)
        stats.counts = Counts(one.rows, one.failed, one.input_tokens, one.output_tokens)
        self.replicas = {"a": replace(one, start_s=38.5, delivered=stats)}
        self.elapsed_s = START_S + seconds + 5.0

    def replica(self, rows: int) -> ReplicaState:
        return ReplicaState(
            state="ready",
            actor_id="actor",
            node="10.0.0.1",
            settings={"max_num_seqs": 256, "max_model_len": 8192},
            rows=rows,
            input_tokens=rows * 880,
            output_tokens=rows * 93,
            busy_s=float(self.seconds),
        )

    def fail(self, *errors: str) -> SampleRun:
        """These rows came too, and failed."""
        stats = RowStats()
        for error in errors:
            stats.add(a_failure(error, 9000 if error.startswith("tokenize") else 0), 0.0)
        stats.counts.input_tokens = 0
        self.replicas["b"] = ReplicaState(actor_id="actor", node="10.0.0.1", delivered=stats)
        return self

    @property
    def metrics(self) -> RunMetrics:
        return RunMetrics.of(self.replicas, self.elapsed_s, self.history)

    def report(self, **given: Any) -> dict[str, Any]:
        """What `page` takes."""
        settings = {
            "Engine settings, as the engine resolved them": [("max_num_seqs", "256")],
            "Sampling parameters": [("max_tokens", "150")],
        }
        return {
            "title": "meta-llama/Llama-3.1-8B-Instruct",
            "metrics": self.metrics,
            "history": self.history,
            "stats": row_stats(self.replicas),
            "settings": settings,
            "engines": "GPUs",
            **given,
        }
