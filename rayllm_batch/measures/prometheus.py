"""A run's numbers for Prometheus, through Ray's own endpoint on the node of the driver: see docs/tuning.md.

    ray_rayllm_batch_rows_total, ..._failed_rows_total, ..._input_tokens_total, ..._output_tokens_total
    ray_rayllm_batch_running_requests, ..._waiting_requests, ..._kv_cache_usage, ..._gpu_utilization (0 to 1)

Each with the tags run_id, model, and replica, a number. They come from the driver, once a second, not from the
replicas: so a replica that dies and starts again goes on in the same series, and the last rows of a run are exported
too, although its replicas end with it. Ray sends on what is here every ten seconds.
"""

from __future__ import annotations

from typing import Any

from rayllm_batch.measures.snapshot import ReplicaState, Snapshot, by_actor

# Of a process, by the names of its fields here: their names there, and what they are.
COUNTERS = {
    "rows": ("rows", "rows that came through, those with an error included"),
    "failed": ("failed_rows", "rows with an error"),
    "input_tokens": ("input_tokens", "tokens of prompts"),
    "output_tokens": ("output_tokens", "tokens generated"),
}
GAUGES = {
    "running": ("running_requests", "requests that the engine computes"),
    "waiting": ("waiting_requests", "requests in the engine's queue"),
    "kv_cache_usage": ("kv_cache_usage", "share of the KV cache in use"),
    "gpu_utilization": ("gpu_utilization", "share of the last moment in which the replica's GPUs computed"),
}
TAGS = ("run_id", "model", "replica")


class Prometheus:
    """An observer of the run, and a context manager around it: afterwards nothing runs or waits."""

    def __init__(self, run_id: str, model: str) -> None:
        from ray.util.metrics import Counter, Gauge

        self._counters = {key: Counter(f"rayllm_batch_{name}", text, TAGS) for key, (name, text) in COUNTERS.items()}
        self._gauges = {key: Gauge(f"rayllm_batch_{name}", text, TAGS) for key, (name, text) in GAUGES.items()}
        self._tags = {"run_id": run_id, "model": model}
        self._numbers: dict[str, str] = {}  # of an actor, which keeps its id when it starts again
        self._sent: dict[tuple[str, str], float] = {}  # the last value of each series

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self.observe(Snapshot({actor: ReplicaState(actor_id=actor) for actor in self._numbers}))
        except Exception:  # Ray may be gone
            pass

    def observe(self, snapshot: Snapshot) -> None:
        for actor, processes in by_actor(snapshot.replicas).items():
            number = self._numbers.setdefault(actor, str(len(self._numbers)))
            tags = {**self._tags, "replica": number}
            for name, counter in self._counters.items():
                new = sum(getattr(process, name) for process in processes)
                if (more := new - self._sent.get((number, name), 0)) > 0:
                    self._sent[number, name] = new
                    counter.inc(more, tags)
            ready = next((process for process in processes if process.state == "ready"), None)
            for name, gauge in self._gauges.items():
                value = getattr(ready, name, None)
                if value is not None or (number, name) in self._sent:  # else there is no GPU, or nothing yet
                    self._sent[number, name] = value or 0.0
                    gauge.set(self._sent[number, name], tags)
