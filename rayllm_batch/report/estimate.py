"""What a job will cost, from a trial with some of its rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

from rayllm_batch.show.status import duration
from rayllm_batch.workers.trial import Trial

# Of the rows' time, beside what the sample's own spread says: how far one run of the same rows differs from the next.
# bench/estimate.py measures both this and whether the interval held.
NOISE = 0.15
PIPELINE_S = 15.0  # Ray Data's workers starting and the last block leaving, measured on two cores
FULL = 0.9  # of the most requests that ran at once: from there on the engine empties


@dataclass(frozen=True)
class Spread:
    """Tokens a row: the mean, and the values that 5% of the rows are below and above."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[int]) -> Spread:
        ordered = sorted(values) or [0]
        last = len(ordered) - 1
        return cls(statistics.fmean(ordered), ordered[int(0.05 * last)], ordered[math.ceil(0.95 * last)])

    def __str__(self) -> str:
        return f"{self.mean:,.0f} a row (nine in ten from {self.low:,.0f} to {self.high:,.0f})"


@dataclass(frozen=True)
class Sample:
    """What was tried: input tokens of each row; how long one CPU takes to make one prompt; the two trials.

    prefill: with one token an answer. whole: with whole answers; both of all rows, each as often as `copies` says.
    """

    input_tokens: list[int]
    failed: list[str]
    prepare_s: float
    prefill: Trial
    whole: Trial


@dataclass(frozen=True)
class Estimate:
    """Of a whole job. Times in seconds.

    run_s:          without starting up, from `low_s` to `high_s` in nineteen of twenty cases.
    prefill_share:  of the engine's time, what reading prompts takes; the rest is generating.
    cpu_headroom:   how many times the engine's need the CPU stage can give; below 1 it is what the job waits for.
    bound_by:       "prefill", "decode", "start-up" or "CPU side"; of an endpoint also "endpoint", whose share of
                    prefill is not known, or "rate limits".
    gpus:           over all replicas; 0 on a CPU. gpu_hours and cost_usd are with starting up.
    tokens_usd:     the price of all tokens, where they have one.
    """

    rows: int
    num_replicas: int
    gpus: float
    accelerator_type: str
    sample_rows: int
    failed: list[str]
    input_tokens_per_row: Spread
    output_tokens_per_row: Spread
    start_s: float
    run_s: float
    low_s: float
    high_s: float
    prefill_share: Optional[float]
    cpu_headroom: float
    bound_by: str
    gpu_hour_usd: Optional[float] = None
    tokens_usd: Optional[float] = None

    @property
    def gpu_hours(self) -> float:
        return self.gpus * (self.start_s + self.run_s) / 3600

    @property
    def cost_usd(self) -> Optional[float]:
        """None without a price."""
        if self.tokens_usd is not None:
            return self.tokens_usd
        return None if self.gpu_hour_usd is None else self.gpu_hours * self.gpu_hour_usd

    @property
    def input_tokens(self) -> float:
        return self.rows * self.input_tokens_per_row.mean

    @property
    def output_tokens(self) -> float:
        return self.rows * self.output_tokens_per_row.mean

    def beside(self, took_s: float, start_s: float) -> str:
        """What was said beside what it took: seconds of the run, and of these, of starting up."""
        run_s = max(took_s - start_s, 0.0)
        within = "within" if self.low_s <= run_s <= self.high_s else "outside"
        warm = "the engines were kept warm"
        if start_s:
            warm = f"starting up took {duration(start_s)}, said were {duration(self.start_s)}"
        return (
            f"estimate() said about {duration(self.run_s)} ({duration(self.low_s)} to {duration(self.high_s)}) beside "
            f"start-up: it took {duration(run_s)}, {within} that; {warm}."
        )

    def __str__(self) -> str:
        where = f"{self.num_replicas} replica{'s' if self.num_replicas > 1 else ''}"
        where += f" ({self.gpus} x {self.accelerator_type})" if self.gpus else f" ({self.accelerator_type})"
        gpu_time = ""
        if self.gpus:
            low, high = (self.gpus * (self.start_s + seconds) / 3600 for seconds in (self.low_s, self.high_s))
            cost = "" if self.cost_usd is None else f", ${self.cost_usd:,.2f} at ${self.gpu_hour_usd:,.2f} a GPU-hour"
            gpu_time = f"  GPU time {self.gpu_hours:,.2f} GPU-hours, {low:,.2f} to {high:,.2f}{cost}\n"
        if self.tokens_usd is not None:
            gpu_time = f"  cost     ${self.tokens_usd:,.2f} for these tokens\n"
        failed = ": ".join([f"{len(self.failed):,} failed", *self.failed[:1]])
        output = shares = ""
        if self.output_tokens:
            output = f"  output   {self.output_tokens:,.0f} tokens, {self.output_tokens_per_row}\n"
        if self.output_tokens and self.prefill_share is not None:
            prefill, decode = f"{self.prefill_share:.0%} is prefill", f"{1 - self.prefill_share:.0%} decode"
            shares = f" of the engine's time {prefill}, {decode};"
        return (
            f"{self.rows:,} rows on {where}: about {duration(self.run_s)}, "
            f"{duration(self.low_s)} to {duration(self.high_s)}\n"
            f"  input    {self.input_tokens:,.0f} tokens, {self.input_tokens_per_row}\n"
            f"{output}"
            f"  start-up {duration(self.start_s)}; a run() in this process within ten minutes does not pay it again\n"
            f"{gpu_time}"
            f"  bound by {self.bound_by};{shares} the CPU side can give {self.cpu_headroom:,.1f} times what the "
            "engine takes\n"
            f"  from {self.sample_rows:,} rows, of which {failed}"
        )

    __repr__ = __str__


def estimate(
    sample: Sample,
    *,
    rows: int,
    num_replicas: int,
    gpus_per_replica: float,
    accelerator_type: str,
    max_num_seqs: int,
    cpus: float,
    start_s: float,
    gpu_hour_usd: Optional[float] = None,
    seats: int = 1,
    least_s: Callable[[int, float], float] = lambda rows, tokens: 0.0,
    tokens_usd: Callable[[float, float], Optional[float]] = lambda input_tokens, output_tokens: None,
) -> Estimate:
    """The job of `rows` rows, from a sample of it.

    max_num_seqs: the engine's limit, of which a row takes `seats` (n, its answers). cpus: those left for the CPU stage.
    start_s: seconds of the engines' start.
    least_s, tokens_usd: what so many rows and tokens take at least, and what input and output tokens cost.

    A row costs the engine `prefill_s` for its prompt, whatever else runs, and `decode_s` for each token of its answer
    while the engine is full. The first comes from the trial with answers of one token, the second from the other one as
    long as it kept the engine full; what its emptying cost beyond that comes once a job. Where the trial was too small
    to fill the engine, decode_s is known between two bounds: a token as dear as in the trial, or as many more at the
    price of one as the job has more requests at once. The estimate is between them, and the interval spans both.
    """
    rows_each = rows / num_replicas
    outputs = [count for count in sample.whole.output_tokens if count is not None]
    tried = len(outputs)
    generated = sum(outputs)
    whole_s, prefill_s = sample.whole.seconds, sample.prefill.seconds / max(len(sample.prefill.output_tokens), 1)
    most = max((running for _, running, _ in sample.whole.load), default=0) or min(tried * seats, max_num_seqs) or 1
    emptying_at, by_then = max(
        ((seconds, done) for seconds, running, done in sample.whole.load if running >= FULL * most),
        default=(whole_s, generated),
    )
    candidates = [(whole_s - prefill_s * tried, generated), (emptying_at - prefill_s * tried, by_then)]
    decode_s = max(0.0, min((seconds / count for seconds, count in candidates if count > 0), default=0.0))
    emptying_s = max(0.0, (whole_s - emptying_at) - decode_s * max(0, generated - by_then))
    at_once = most if tried * seats > most else min(max_num_seqs, rows_each * seats)
    cheapest_decode_s = decode_s * min(1.0, most / max(at_once, 1))
    likely_decode_s = math.sqrt(decode_s * cheapest_decode_s)
    input_tokens, output_tokens = Spread.of(sample.input_tokens), Spread.of(outputs)
    totals = rows * input_tokens.mean, rows * output_tokens.mean
    at_least_s = least_s(rows, sum(totals))

    def seconds(decode: float) -> float:
        engine = rows_each * (prefill_s + decode * output_tokens.mean) + emptying_s
        return max(engine, rows * sample.prepare_s / cpus, at_least_s) + PIPELINE_S

    run_s = seconds(likely_decode_s)
    unsure = math.hypot(_spread_of_the_mean(sample, prefill_s, decode_s), NOISE)
    row_s = max(prefill_s + likely_decode_s * output_tokens.mean, 1e-9)
    headroom = cpus / max(sample.prepare_s, 1e-9) * row_s / num_replicas
    share = prefill_s / row_s
    bound_by = "CPU side" if headroom < 1 else "prefill" if share > 0.5 else "decode"
    if not sample.prefill.output_tokens:  # nor is it known what an endpoint does
        bound_by = "rate limits" if run_s <= at_least_s + PIPELINE_S else "CPU side" if headroom < 1 else "endpoint"
    return Estimate(
        rows=rows,
        num_replicas=num_replicas,
        gpus=gpus_per_replica * num_replicas,
        accelerator_type=accelerator_type,
        sample_rows=len(sample.input_tokens) + len(sample.failed),
        failed=sample.failed,
        input_tokens_per_row=input_tokens,
        output_tokens_per_row=output_tokens,
        start_s=start_s,
        run_s=run_s,
        low_s=seconds(cheapest_decode_s) * (1 - unsure),
        high_s=seconds(decode_s) * (1 + unsure),
        prefill_share=share if sample.prefill.output_tokens else None,
        cpu_headroom=headroom,
        bound_by="start-up" if start_s > run_s else bound_by,
        gpu_hour_usd=gpu_hour_usd,
        tokens_usd=tokens_usd(*totals),
    )


def copies(sample_rows: int, rows_each: float, max_num_seqs: int) -> int:
    """How often to try each row: twice an engine full, but not more than a quarter of the job."""
    return max(1, math.ceil(min(2 * max_num_seqs, rows_each / 4) / sample_rows))


def _spread_of_the_mean(sample: Sample, prefill_s: float, decode_s: float) -> float:
    """Half of the 95% interval of a row's mean cost, as a share of it: what another sample could have shown."""
    mean_input = Spread.of(sample.input_tokens).mean or 1.0
    costs = [
        prefill_s * tokens / mean_input + decode_s * output
        for tokens, output in zip(sample.input_tokens, sample.whole.output_tokens, strict=False)
        if output is not None
    ]
    if len(costs) < 2 or not sum(costs):
        return 1.0
    return 1.96 * statistics.stdev(costs) / math.sqrt(len(costs)) / statistics.fmean(costs)
