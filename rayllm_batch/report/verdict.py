"""What a run's figures say about it, in sentences: were the engines full, what failed, where the time went."""

from __future__ import annotations

from dataclasses import dataclass, field

from rayllm_batch.measures.failures import OTHER
from rayllm_batch.measures.history import NEARLY, History, Point, mean_over
from rayllm_batch.measures.metrics import RunMetrics

FULL, PARTLY = 0.8, 0.4  # of the time in which there were more rows than the engines had
WHOLE_JOB = 0.2  # of the generating time: less than that, and the engines had all rows at once from the start


@dataclass(frozen=True)
class Verdict:
    """`sentence` for who reads nothing else; `notes` for who asks why, and what to change."""

    sentence: str
    notes: list[str] = field(default_factory=list)


def verdict(metrics: RunMetrics, history: History, engines: str = "engines", at_once: str = "max_num_seqs") -> Verdict:
    """engines: what they are called, "GPUs" or "engines". at_once: the setting that bounds their requests."""
    if not metrics.rows:
        nothing = "Nothing was computed: every row was finished before this run, or there were none."
        return Verdict(_outcome(history) or nothing)
    fullness, notes = _fullness(metrics, history, engines, at_once)
    sentence = f"{_outcome(history)} {fullness} {_failures(metrics, history)}".strip()
    return Verdict(sentence, [*notes, *_where_the_time_went(metrics, history)])


def _outcome(history: History) -> str:
    return f"The run did not finish ({history.ended})." if history.ended else ""


def _failures(metrics: RunMetrics, history: History) -> str:
    if not metrics.failed and history.ended:
        return f"None of the {metrics.rows:,} rows that came through until then failed."
    if not metrics.failed:
        return f"All {metrics.rows:,} rows were answered."
    share = f"{metrics.failed:,} of {metrics.rows:,} rows failed ({percent(metrics.failed / metrics.rows)})"
    if not metrics.failed_by_kind:
        return f"{share}."
    kind, rows = max(metrics.failed_by_kind.items(), key=lambda item: item[1])
    if kind == OTHER:
        return f"{share}."
    return f"{share}, {'all' if rows == metrics.failed else f'{rows:,} of them'} in {kind}."


def _fullness(metrics: RunMetrics, history: History, engines: str, at_once: str) -> tuple[str, list[str]]:
    sampled = history.generating
    if len(sampled) < 3:
        return f"The run was too short to tell how full the {engines} were.", []
    rows = sampled[-1][1].rows
    # Engines that have all the rows that are not done and are not full could not have been filled further.
    fed = [(seconds, point) for seconds, point in sampled if point.full or point.rows + point.in_flight < rows]
    peak = max(point.running for _, point in sampled)
    fed_s, all_s = _seconds(fed), _seconds(sampled)
    if fed_s < WHOLE_JOB * all_s:
        return (
            f"The job was too small to fill the {engines}: they had all its rows at once and ran up to {peak:,.0f} "
            f"requests{_of(metrics, at_once)}."
        ), []
    share = mean_over(fed, "full") or 0.0
    tail_s = all_s - fed_s
    # Every figure is of the whole generating time, as those of the page are; full, waiting and the end make all of it.
    whole, tail = mean_over(sampled, "full") or 0.0, tail_s / all_s
    while_fed = " as long as rows were waiting" if tail >= 0.05 else ""
    end = f", and only the last rows were left for {percent(tail)}" if while_fed else ""
    time = f"{percent(whole)} of the generating time"
    ran = f"{mean_over(sampled, 'running'):,.0f} requests{_of(metrics, at_once)} ran on average"
    notes = []
    if tail > 0.25:
        notes.append(
            f"For {tail_s:,.0f} of {all_s:,.0f} s only the last rows were left, too few to fill the {engines}: see the "
            "slowest rows. A lower max_tokens bounds them; more rows in one run make them count less."
        )
    if share >= FULL and tail > 0.5:
        return (
            f"The {engines} were full only at first: for {percent(tail)} of the generating time just the "
            "last rows were left, too few to fill them."
        ), notes
    if share >= FULL:
        return (f"The {engines} were full{while_fed}: they had all the work they could take for {time}{end}."), [
            _limit(fed, ran, at_once),
            *notes,
        ]
    rest = f"{percent(max(0.0, 1 - whole - tail))} of it"
    waited = "waited for rows"
    starved = (
        f"For {rest} they waited for rows ({ran}): reading the data, parse_row and tokenizing did not keep up. "
        "More CPUs for Ray, or a parse_row that does less, make it faster."
    )
    if _restarts(metrics):  # then nothing says that the rows came too slowly
        waited = "were starting again or had few rows"
        starved = (
            f"For {rest} engines were being started again, or had few rows ({ran}): those that an engine had when it "
            "died are tried again a few at a time, to find the one that made it die."
        )
    if share >= PARTLY:
        return f"The {engines} were full for only {time}{end}.", [starved, *notes]
    return (
        f"The {engines} were not full: they had all the work they could take for only {time}, and {waited} for "
        f"{rest}{end}."
    ), [starved, *notes]


def _limit(fed: list[tuple[float, Point]], ran: str, at_once: str) -> str:
    """What an engine that was full was full of."""
    full = [(seconds, point) for seconds, point in fed if point.full]
    full_s = _seconds(full)
    kv = sum(seconds for seconds, point in full if (point.kv_cache_usage or 0.0) >= NEARLY) / full_s
    slots = sum(seconds for seconds, point in full if point.slots and point.running >= NEARLY * point.slots) / full_s
    if kv >= 0.5:
        return (
            f"What bounded them was the KV cache ({ran}): more memory for it (gpu_memory_utilization, fewer other "
            "things on the GPU) lets more requests run at once."
        )
    if slots >= 0.5:
        kv_use = mean_over(full, "kv_cache_usage")
        beside = "" if kv_use is None else f", with {percent(kv_use)} of the KV cache in use"
        return f"What bounded them was {at_once} ({ran}){beside}."
    return f"Requests waited in the engines' queues, so rows came fast enough ({ran})."


def _where_the_time_went(metrics: RunMetrics, history: History) -> list[str]:
    notes = []
    if metrics.elapsed_s and metrics.busy_share < 0.5:
        notes.append(
            f"An engine had work for {metrics.engine_s:,.0f} of the {metrics.elapsed_s:,.0f} s that the call took, "
            f"{percent(metrics.busy_share)}; the slowest engine took {metrics.start_s:,.0f} s to start. More rows in "
            "one run use the start better."
        )
    ready, row = history.phases.get("first engine ready"), history.phases.get("first row")
    work = next((point.time_s for point in history.points if point.in_flight or point.rows), row)
    if ready is not None and work is not None and work - ready > max(10.0, 0.1 * metrics.elapsed_s):
        notes.append(
            f"The first engine was ready {work - ready:,.0f} s before the first row reached it: Ray Data was starting "
            "its workers, or the rows were prepared slowly."
        )
    if restarts := _restarts(metrics):
        again = "the rows they had are counted, and were computed, again."
        notes.append(f"Engines were started again {restarts:,} time(s); {again}")
    if metrics.mean_gpu_utilization is not None:
        notes.append(
            f"GPU use averaged {percent(metrics.mean_gpu_utilization)} while generating. That is the share of time in "
            "which the GPU computed anything, not of its peak."
        )
    return notes


def _restarts(metrics: RunMetrics) -> int:
    return sum(replica.restarts for replica in metrics.replicas)


def _of(metrics: RunMetrics, at_once: str) -> str:
    return f" of the {metrics.max_running:,} that {at_once} allows" if metrics.max_running else ""


def _seconds(sampled: list[tuple[float, Point]]) -> float:
    return sum(seconds for seconds, _ in sampled)


def percent(share: float) -> str:
    """A small share is not 0%, nor a large one 100%."""
    if 0 < share < 0.01:
        return "under 1%"
    return "over 99%" if 0.99 < share < 1 else f"{share:.0%}"
