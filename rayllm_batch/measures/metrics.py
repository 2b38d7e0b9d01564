"""What a run did, in numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Optional

from rayllm_batch.measures.failures import by_stage
from rayllm_batch.measures.history import History, mean, mean_over
from rayllm_batch.measures.row_stats import Counts, RowStats
from rayllm_batch.measures.snapshot import ReplicaState, by_actor


@dataclass(frozen=True)
class ReplicaMetrics:
    """Of one replica, over all its restarts.

    node:     the address of the node that it was on last.
    start_s:  seconds of its slowest start, the model's download included.
    engine_s: seconds during which its engine had work.
    restarts: how many times its process was started again.
    """

    node: str
    start_s: float
    engine_s: float
    rows: int
    failed: int
    num_input_tokens: int
    num_generated_tokens: int
    restarts: int


@dataclass(frozen=True)
class RunMetrics:
    """Of one run; rows that an earlier run had left finished in the output folder are not in it.

    rows, failed:         rows that the replicas have handed on, each once, and those of them with an error. A row that
                          was computed again after an engine died counts when it was handed on.
    num_input_tokens, num_generated_tokens: of these rows.
    cost_usd:             of these tokens, where the config has their prices.
    elapsed_s:            seconds of the whole call.
    start_s:              seconds until the slowest engine was ready.
    engine_s:             seconds during which an engine had work, averaged over the replicas.
    num_replicas:         replicas that answered rows; a restarted one is the same one.
    failed_by_kind:       failed rows by their stage: dataset_file, parse_row, chat_template, tokenize, engine, ...
    errors:               failed rows by what their errors say: how many, and one of them.
    finish_reasons:       rows by finish reason, "error" among them.
    invalid_answers:      answers that did not have the form asked for, by the reason: how many, and one of the reasons.
    reasks, mended:       how many of them were asked for again (see `reask`), and rows that came out well for it.
    truncated:            rows whose text was cut to truncate_prompt_tokens.
    mean_latency_s:       seconds that an answered row spent in the engine and its queue, on average.
    replicas:             every replica that was started, also those that answered nothing.

    How full the engines were. The following are means over the generating time (`generating_s`: seconds from the first
    request in an engine to the last row), sampled once a second; None where a run was too short to be sampled, or where
    nothing reports it:

    full_share:           the share of that time in which the engine had all the work that it could take: requests
                          waited in its queue, or it ran at least 90% of max_num_seqs, or at least 90% of its KV cache
                          was in use. The end of a run, when the last rows finish, cannot be full, and counts.
    mean_running:         requests running, summed over the replicas; max_running is what they could run (max_num_seqs).
    mean_kv_cache_usage:  0 to 1, averaged over the replicas.
    mean_gpu_utilization: 0 to 1, as the driver tells it: the share of time in which the GPU computed anything. A GPU
                          at 1 may still be far from its peak.
    """

    rows: int = 0
    failed: int = 0
    num_input_tokens: int = 0
    num_generated_tokens: int = 0
    cost_usd: Optional[float] = None
    elapsed_s: float = 0.0
    start_s: float = 0.0
    engine_s: float = 0.0
    num_replicas: int = 0
    failed_by_kind: dict[str, int] = field(default_factory=dict)
    finish_reasons: dict[str, int] = field(default_factory=dict)
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)
    invalid_answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    reasks: int = 0
    mended: int = 0
    truncated: int = 0
    mean_latency_s: float = 0.0
    replicas: tuple[ReplicaMetrics, ...] = ()
    generating_s: float = 0.0
    full_share: Optional[float] = None
    mean_running: Optional[float] = None
    max_running: int = 0
    mean_kv_cache_usage: Optional[float] = None
    mean_gpu_utilization: Optional[float] = None

    @property
    def rows_per_s(self) -> float:
        """Answered rows over the engines' time, starting up left out; 0 when nothing was computed."""
        return (self.rows - self.failed) / self.engine_s if self.engine_s else 0.0

    @property
    def output_tokens_per_s(self) -> float:
        return self.num_generated_tokens / self.engine_s if self.engine_s else 0.0

    @property
    def input_tokens_per_s(self) -> float:
        return self.num_input_tokens / self.engine_s if self.engine_s else 0.0

    @property
    def busy_share(self) -> float:
        """The share of the whole call, start-up included, during which an engine had work: of the GPUs' time."""
        return self.engine_s / self.elapsed_s if self.elapsed_s else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Every figure, those that are derived too, as JSON can hold it."""
        derived = ("rows_per_s", "input_tokens_per_s", "output_tokens_per_s", "busy_share")
        return {**dataclasses.asdict(self), **{name: getattr(self, name) for name in derived}}

    @classmethod
    def of(cls, replicas: dict[str, ReplicaState], elapsed_s: float, history: Optional[History] = None) -> RunMetrics:
        """From what the monitor knows of each replica's processes, and what was seen of them over time."""
        stats, actors = row_stats(replicas), by_actor(replicas).values()
        answering = by_actor({key: one for key, one in replicas.items() if one.delivered.counts.rows}).values()
        engine_s = [sum(process.busy_s for process in processes) for processes in answering]
        return cls(
            rows=stats.counts.rows,
            failed=stats.counts.failed,
            num_input_tokens=stats.counts.input_tokens,
            num_generated_tokens=stats.counts.output_tokens,
            elapsed_s=elapsed_s,
            start_s=max((process.start_s for process in replicas.values()), default=0.0),
            engine_s=mean(engine_s) or 0.0,
            num_replicas=len(engine_s),
            failed_by_kind=by_stage(stats.errors),
            finish_reasons=dict(stats.finish_reasons),
            errors=dict(stats.errors),
            invalid_answers=dict(stats.invalid),
            reasks=stats.reasks,
            mended=stats.mended,
            truncated=stats.truncated,
            mean_latency_s=stats.latency_s / max(1, stats.counts.rows - stats.counts.failed),
            replicas=tuple(map(_of_one, actors)),
            **_over_time(history),
        )

    def __str__(self) -> str:
        if self.num_input_tokens and not self.num_generated_tokens:
            return (
                f"{self.num_input_tokens:,} input tokens in {self.elapsed_s:.1f} s (engine start {self.start_s:.1f} s, "
                f"computing {self.engine_s:.1f} s: {self.rows_per_s:,.1f} rows/s, {self.input_tokens_per_s:,.0f} input "
                "tokens/s)"
            )
        return (
            f"{self.num_input_tokens:,} input and {self.num_generated_tokens:,} output tokens in {self.elapsed_s:.1f}"
            f" s (engine start {self.start_s:.1f} s, generating {self.engine_s:.1f} s: "
            f"{self.output_tokens_per_s:,.0f} output tokens/s)"
            + ("" if self.cost_usd is None else f", ${self.cost_usd:,.2f}")
        )


def row_stats(replicas: dict[str, ReplicaState]) -> RowStats:
    """Of all replicas together: the rows that they have handed on."""
    return RowStats.merged(replica.delivered for replica in replicas.values())


def _of_one(processes: list[ReplicaState]) -> ReplicaMetrics:
    counts = Counts.total(process.delivered.counts for process in processes)
    return ReplicaMetrics(
        node=processes[-1].node,
        start_s=max(process.start_s for process in processes),
        engine_s=sum(process.busy_s for process in processes),
        rows=counts.rows,
        failed=counts.failed,
        num_input_tokens=counts.input_tokens,
        num_generated_tokens=counts.output_tokens,
        restarts=len(processes) - 1,
    )


def _over_time(history: Optional[History]) -> dict[str, Any]:
    sampled = history.generating if history else []
    seconds = sum(seconds for seconds, _ in sampled)
    if not seconds:
        return {}
    return {
        "generating_s": seconds,
        "full_share": mean_over(sampled, "full"),
        "mean_running": mean_over(sampled, "running"),
        "max_running": max(point.slots for _, point in sampled),
        "mean_kv_cache_usage": mean_over(sampled, "kv_cache_usage"),
        "mean_gpu_utilization": mean_over(sampled, "gpu_utilization"),
    }
