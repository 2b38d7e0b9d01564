"""Where a run stands, in words: one line, however much room there is for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from rayllm_batch.measures.history import mean
from rayllm_batch.measures.rates import Rates
from rayllm_batch.measures.row_stats import Counts
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot, by_actor

MUST_STAY = 0


@dataclass(frozen=True)
class Status:
    """One moment.

    phase: "generating", ...
    parts: what is known, in the order in which it is shown, each with its rank: the highest goes first where room is
           short.
    rows, total: how far it is, for a bar; total is None where nobody knows.
    """

    phase: str
    parts: tuple[tuple[int, str], ...] = ()
    rows: int = 0
    total: Optional[int] = None

    def text(self, width: Optional[int] = None, head: Optional[str] = None) -> str:
        """At most `width` characters. head: what stands before the parts; else the phase."""
        head = head or self.phase + (":" if self.parts else "")
        parts = list(self.parts)
        while True:
            text = " ".join(filter(None, (head, ", ".join(part for _, part in parts))))
            least = max(parts, default=None, key=lambda part: part[0])
            if width is None or len(text) <= width or least is None or least[0] == MUST_STAY:
                return text if width is None else text[:width]
            parts.remove(least)


def status(
    snapshot: Snapshot,
    num_replicas: int,
    total: Optional[int],
    rates: Rates,
    elapsed_s: float,
    *,
    to_folder: bool = False,
) -> Status:
    """Of a run that goes on. rates: of its counts. to_folder: the rows are written to an output folder as they come."""
    replicas, ready = list(snapshot.replicas.values()), snapshot.ready
    counts = Counts.total(replicas)
    if not ready:
        phase = f"{_phase_before(replicas, num_replicas)} ... {duration(elapsed_s)}"
        return Status(phase, (_rows(counts, total),) if counts.rows else (), counts.rows, total)
    # A replica that died may have taken answered rows with it, so the count alone does not say that all is done.
    all_done = total and counts.rows >= total and not any(replica.in_flight for replica in ready)
    # An estimate's trials are no rows of a run: what they show is that the engine works.
    parts = [*([_rows(counts, total)] if total or counts.rows else []), *_failed(counts)]
    if len(ready) < num_replicas:
        parts.append((3, f"{len(ready)} of {num_replicas} replicas ready"))
    left_s = rates.left_s(total) if total else None
    if left_s is not None:
        parts.append((1, f"{duration(left_s)} left"))
    parts += _tokens(snapshot, rates, counts)
    parts.append((5, f"{sum(replica.running for replica in ready):,.0f} running"))
    parts.append((5, f"{sum(replica.waiting for replica in ready):,.0f} waiting"))
    if caches := [replica.kv_cache_usage for replica in ready if replica.kv_cache_usage is not None]:
        parts.append((7, f"KV cache {100 * max(caches):.0f}%"))
    if (gpus := mean(replica.gpu_utilization for replica in ready)) is not None:
        parts.append((4, f"GPU {100 * gpus:.0f}%"))
    return Status("writing" if all_done and to_folder else "generating", tuple(parts), counts.rows, total)


def final_status(snapshot: Snapshot, total: Optional[int], elapsed_s: float) -> Status:
    """Of a run that is over and went well."""
    counts = Counts.total(snapshot.replicas.values())
    parts = (_rows(counts, total), *_failed(counts), *_tokens(snapshot, Rates(), counts))
    return Status(f"done in {duration(elapsed_s)}", parts, counts.rows, total)


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _phase_before(replicas: list[ReplicaState], num_replicas: int) -> str:
    """While no engine is ready."""
    if not replicas:
        return f"preparing rows and {num_replicas} replica(s)"
    if any(replica.state == "downloading" for replica in replicas):
        return "downloading the model"
    starting = sum(replica.state == "starting" for replica in replicas)
    return f"starting engine {max(starting, 1)} of {num_replicas}"


def _rows(counts: Counts, total: Optional[int]) -> tuple[int, str]:
    if not total:
        return MUST_STAY, f"{counts.rows:,} rows"
    rows = min(counts.rows, total)  # some may have been answered twice, see RunMonitor
    return MUST_STAY, f"{rows:,} of {total:,} rows ({100 * rows // total}%)"


def _failed(counts: Counts) -> list[tuple[int, str]]:
    return [(2, f"{counts.failed:,} failed")] if counts.failed else []


def _tokens(snapshot: Snapshot, rates: Rates, counts: Counts) -> list[tuple[int, str]]:
    """`1,512 output tokens/s, 1,498 on average`, and the same of the input; averages over the engines' busy time."""
    # Of the busiest replica, restarts included.
    actors = by_actor(snapshot.replicas).values()
    busy = max((sum(process.busy_s for process in processes) for processes in actors), default=0.0)
    parts = []
    if busy and counts.input_tokens and not counts.output_tokens:  # a task that generates nothing
        now = rates.per_s("rows")
        parts.append((3, f"{counts.rows / busy if now is None else now:,.1f} rows/s"))
    for rank, name, tokens in ((3, "output", counts.output_tokens), (8, "input", counts.input_tokens)):
        if not tokens or not busy:
            continue
        average, now = tokens / busy, rates.per_s(f"{name}_tokens")
        parts.append((rank, f"{average if now is None else now:,.0f} {name} tokens/s"))
        if now is not None:
            parts.append((rank + 3, f"{average:,.0f} on average"))
    return parts
