"""Where a run stands, in words: one line, however much room there is for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from rayllm_batch.lives import lives
from rayllm_batch.rates import Rates

COUNTERS = ("rows", "failed", "input_tokens", "output_tokens")
MUST_STAY = 0


@dataclass(frozen=True)
class Status:
    """One moment.

    phase: "generating", ...
    parts: what is known, in the order in which it is shown, each with its rank: the highest goes first where room is short.
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
    snapshot: dict[str, Any], num_replicas: int, total: Optional[int], rates: Rates, elapsed_s: float, *, to_folder: bool = False
) -> Status:
    """Of a run that goes on. rates: of COUNTERS. to_folder: the rows are written to an output folder as they come."""
    replicas = list(snapshot["replicas"].values())
    ready = [replica for replica in replicas if replica.get("state") == "ready"]
    counts = counted(snapshot)
    if not ready:
        return Status(
            f"{_phase_before(replicas, num_replicas)} ... {duration(elapsed_s)}", (_rows(counts, total),) if counts["rows"] else (),
            counts["rows"], total,
        )  # fmt: skip
    # A replica that died may have taken answered rows with it, so the count alone does not say that all is done.
    all_done = bool(total) and counts["rows"] >= total and not any(replica.get("in_flight") for replica in ready)
    # An estimate's trials are no rows of a run: what they show is that the engine works.
    parts = [*([_rows(counts, total)] if total or counts["rows"] else []), *_failed(counts)]
    if len(ready) < num_replicas:
        parts.append((3, f"{len(ready)} of {num_replicas} replicas ready"))
    left_s = rates.left_s("rows", total) if total else None
    if left_s is not None:
        parts.append((1, f"{duration(left_s)} left"))
    parts += _tokens(snapshot, rates, counts)
    running, waiting = (sum(replica.get(key, 0) for replica in ready) for key in ("running", "waiting"))
    parts += [(5, f"{running:,.0f} running"), (5, f"{waiting:,.0f} waiting")]
    parts.append((7, f"KV cache {100 * max(replica.get('kv_cache_usage', 0.0) for replica in ready):.0f}%"))
    if gpus := [replica["gpu_utilization"] for replica in ready if replica.get("gpu_utilization") is not None]:
        parts.append((4, f"GPU {100 * sum(gpus) / len(gpus):.0f}%"))
    return Status("writing" if all_done and to_folder else "generating", tuple(parts), counts["rows"], total)


def final_status(snapshot: dict[str, Any], total: Optional[int], elapsed_s: float) -> Status:
    """Of a run that is over and went well."""
    counts = counted(snapshot)
    parts = [_rows(counts, total), *_failed(counts)]
    busy = _busy_s(snapshot)
    for rank, name in ((2, "output"), (3, "input")):
        if busy and counts[f"{name}_tokens"]:
            parts.append((rank, f"{counts[f'{name}_tokens'] / busy:,.0f} {name} tokens/s"))
    return Status(f"done in {duration(elapsed_s)}", tuple(parts), counts["rows"], total)


def counted(snapshot: dict[str, Any]) -> dict[str, int]:
    """The counters, of all replicas there were."""
    return {name: sum(replica.get(name, 0) for replica in snapshot["replicas"].values()) for name in COUNTERS}


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _phase_before(replicas: list[dict[str, Any]], num_replicas: int) -> str:
    """While no engine is ready."""
    if not replicas:
        return f"preparing rows and {num_replicas} replica(s)"
    if any(replica.get("state") == "downloading" for replica in replicas):
        return "downloading the model"
    starting = sum(replica.get("state") == "starting" for replica in replicas)
    return f"starting engine {max(starting, 1)} of {num_replicas}"


def _rows(counts: dict[str, int], total: Optional[int]) -> tuple[int, str]:
    if not total:
        return MUST_STAY, f"{counts['rows']:,} rows"
    rows = min(counts["rows"], total)  # some may have been answered twice, see RunMonitor
    return MUST_STAY, f"{rows:,} of {total:,} rows ({100 * rows // total}%)"


def _failed(counts: dict[str, int]) -> list[tuple[int, str]]:
    return [(2, f"{counts['failed']:,} failed")] if counts["failed"] else []


def _tokens(snapshot: dict[str, Any], rates: Rates, counts: dict[str, int]) -> list[tuple[int, str]]:
    """`1,512 output tokens/s, 1,498 on average`, and the same of the input. The average is over the engines' working time."""
    busy = _busy_s(snapshot)
    parts = []
    for rank, name in ((3, "output"), (8, "input")):
        key = f"{name}_tokens"
        if not counts[key] or not busy:
            continue
        average, now = counts[key] / busy, rates.per_s(key)
        parts.append((rank, f"{average if now is None else now:,.0f} {name} tokens/s"))
        if now is not None:
            parts.append((rank + 3, f"{average:,.0f} on average"))
    return parts


def _busy_s(snapshot: dict[str, Any]) -> float:
    """Seconds during which the busiest replica's engine had work, restarts included."""
    return max((sum(life.get("engine_s", 0.0) for life in its) for its in lives(snapshot["replicas"]).values()), default=0.0)
