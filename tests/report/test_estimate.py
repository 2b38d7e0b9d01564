"""The estimate's arithmetic, against an engine that is simulated step by step."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from rayllm_batch.engine.openai import OpenAI
from rayllm_batch.report.estimate import PIPELINE_S, Estimate, Sample, Spread, copies, estimate
from rayllm_batch.show.status import duration
from rayllm_batch.workers.trial import Trial


@dataclass(frozen=True)
class Engine:
    """A scheduler with continuous batching. A step takes step_s, and more for each token that it reads or writes."""

    step_s: float
    read_s: float
    write_s: float
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192

    def run(self, rows: list[tuple[int, int]]) -> Trial:
        now, generated, waiting, running, load = 0.0, 0, list(rows), [], []
        while waiting or running:
            reading = 0
            while waiting and len(running) < self.max_num_seqs and reading < self.max_num_batched_tokens:
                tokens, output = waiting.pop(0)
                reading += tokens
                running.append(output)
            now += self.step_s + self.read_s * reading + self.write_s * len(running)
            generated += len(running)
            running = [left - 1 for left in running if left > 1]
            load.append((now, float(len(running)), float(generated)))
        return Trial(now, [output for _, output in rows], load=load)


def rows(count: int, inputs: tuple[int, int], outputs: tuple[int, int], seed: int = 1) -> list[tuple[int, int]]:
    dice = random.Random(seed)
    return [(dice.randint(*inputs), dice.randint(*outputs)) for _ in range(count)]


def of(engine: Engine, job: list[tuple[int, int]], sample_rows: int = 64, **more: object) -> Estimate:
    tried = random.Random(2).sample(job, sample_rows)
    many = copies(sample_rows, len(job), engine.max_num_seqs)
    sample = Sample(
        [tokens for tokens, _ in tried],
        [],
        0.0001,
        engine.run([(tokens, 1) for tokens, _ in tried] * many),
        engine.run(tried * many),
    )
    settings = {
        "num_replicas": 1,
        "gpus_per_replica": 1,
        "accelerator_type": "A10G",
        "cpus": 4.0,
        "start_s": 80.0,
        **more,
    }
    return estimate(sample, rows=len(job), max_num_seqs=engine.max_num_seqs, **settings)


SMALL_GPU = Engine(step_s=0.03, read_s=0.00015, write_s=0.0002)
LARGE_GPU = Engine(step_s=0.01, read_s=0.00003, write_s=0.00002, max_num_seqs=1024, max_num_batched_tokens=16384)
CPU = Engine(step_s=0.004, read_s=0.0004, write_s=0.001, max_num_seqs=32, max_num_batched_tokens=4096)


@pytest.mark.parametrize("engine", [SMALL_GPU, LARGE_GPU, CPU], ids=["small GPU", "large GPU", "CPU"])
@pytest.mark.parametrize(
    "outputs", [(128, 128), (20, 400), (1, 8)], ids=["equal answers", "mixed answers", "short answers"]
)
@pytest.mark.parametrize("count", [640, 10_000])
def test_within_a_quarter_and_within_its_own_interval(engine: Engine, outputs: tuple[int, int], count: int) -> None:
    job = rows(count, (200, 1400), outputs)
    took = engine.run(job).seconds + PIPELINE_S
    said = of(engine, job)
    assert abs(said.run_s - took) < 0.25 * took, f"{said.run_s:.1f} s said, {took:.1f} s in truth"
    assert said.low_s <= took <= said.high_s


@pytest.mark.parametrize("engine", [SMALL_GPU, LARGE_GPU, CPU], ids=["small GPU", "large GPU", "CPU"])
@pytest.mark.parametrize("count", [100, 2000])
def test_rows_of_several_answers_take_as_many_seats(engine: Engine, count: int) -> None:
    n, job = 8, rows(count, (200, 1400), (20, 200))

    def run(given: list[tuple[int, int]]) -> Trial:
        trial = engine.run([(tokens // n, output) for tokens, output in given for _ in range(n)])
        return replace(trial, output_tokens=[n * output for _, output in given])

    tried = random.Random(2).sample(job, 16)
    many = copies(16, count, engine.max_num_seqs // n)
    sample = Sample([tokens for tokens, _ in tried], [], 0.0001, engine.run([(t, 1) for t, _ in tried] * many), run(tried * many))  # fmt: skip
    settings = {"gpus_per_replica": 1, "accelerator_type": "A10G", "cpus": 4.0, "start_s": 80.0, "num_replicas": 1}
    said = estimate(sample, rows=count, max_num_seqs=engine.max_num_seqs, seats=n, **settings)
    took = run(job).seconds + PIPELINE_S
    assert abs(said.run_s - took) < 0.3 * took and said.low_s <= took <= said.high_s
    assert said.output_tokens_per_row.mean == pytest.approx(n * 110, rel=0.25)


def test_what_bounds_it() -> None:
    job = rows(5000, (800, 800), (1, 2))
    assert of(SMALL_GPU, job).bound_by == "prefill"
    assert of(SMALL_GPU, rows(5000, (20, 40), (200, 200))).bound_by == "decode"
    assert of(LARGE_GPU, rows(64, (20, 40), (20, 20)), start_s=90.0).bound_by == "start-up"
    starved = of(LARGE_GPU, job, cpus=0.001)
    assert starved.bound_by == "CPU side" and starved.cpu_headroom < 1
    assert starved.run_s == pytest.approx(5000 * 0.0001 / 0.001 + PIPELINE_S)


def test_replicas_share_the_rows_and_each_has_its_gpus() -> None:
    job = rows(8000, (200, 800), (100, 200))
    one, four = of(SMALL_GPU, job), of(SMALL_GPU, job, num_replicas=4, gpus_per_replica=2)
    assert (one.run_s - PIPELINE_S) / 4 == pytest.approx(four.run_s - PIPELINE_S, rel=0.1)
    assert one.gpus == 1 and four.gpus == 8


def test_hours_and_cost_have_starting_up_in_them() -> None:
    said = of(SMALL_GPU, rows(2000, (200, 800), (100, 200)), start_s=3600.0, gpu_hour_usd=2.0, gpus_per_replica=2)
    assert said.gpu_hours == pytest.approx(2 * (1 + said.run_s / 3600))
    assert said.cost_usd == pytest.approx(2.0 * said.gpu_hours)
    assert f"${said.cost_usd:,.2f} at $2.00 a GPU-hour" in str(said) and "2 x A10G" in str(said)
    assert of(SMALL_GPU, rows(2000, (200, 800), (100, 200))).cost_usd is None


def test_without_a_gpu_there_are_no_gpu_hours() -> None:
    said = str(of(CPU, rows(640, (200, 800), (50, 60)), gpus_per_replica=0, accelerator_type="CPU"))
    assert "GPU-hour" not in said and "(CPU)" in said and said.startswith("640 rows on 1 replica")


def on_a_cpu(sample: Sample, rows: int, **more: Any) -> Estimate:
    one = {"num_replicas": 1, "gpus_per_replica": 0, "accelerator_type": "CPU", "cpus": 1.0, "start_s": 1.0}
    return estimate(sample, rows=rows, **{**one, **more})


def test_failed_rows_are_named_and_cost_nothing() -> None:
    trial = Trial(2.0, [10, None, 10], ["engine: ValueError: no"], [(1.0, 2.0, 10.0), (2.0, 0.0, 20.0)])
    sample = Sample([5, 5, 5], ["parse_row: KeyError: 'x'"], 0.001, Trial(0.5, [1, None, 1]), trial)
    said = on_a_cpu(sample, 100, max_num_seqs=8)
    assert said.output_tokens_per_row == Spread(10.0, 10.0, 10.0)
    assert "from 4 rows, of which 1 failed: parse_row: KeyError: 'x'" in str(said)


def test_a_sample_of_one_row_is_very_unsure() -> None:
    sample = Sample([50], [], 0.001, Trial(0.1, [1]), Trial(1.0, [20], load=[(0.5, 1.0, 10.0), (1.0, 0.0, 20.0)]))
    said = on_a_cpu(sample, 1, max_num_seqs=8)
    assert said.high_s > 2 * said.run_s and said.low_s <= 0.5 * said.run_s


def test_a_row_is_tried_as_often_as_fills_the_engine_twice_or_a_quarter_of_the_job() -> None:
    assert copies(64, 1_000_000, 256) == 8
    assert copies(64, 640, 256) == 3  # 160 rows, a quarter of 640
    assert copies(64, 64, 256) == 1
    assert copies(64, 10_000, 32) == 1


def test_spread() -> None:
    assert Spread.of(list(range(1, 101))) == Spread(50.5, 5, 96)
    assert Spread.of([7]) == Spread(7, 7, 7) and Spread.of([]) == Spread(0, 0, 0)


def test_what_was_said_stands_beside_what_it_took() -> None:
    said = of(SMALL_GPU, rows(500, (50, 60), (20, 30)))
    assert f"it took {duration(said.run_s)}, within that; the engines were kept warm." in said.beside(said.run_s, 0.0)
    slow = said.beside(3 * said.high_s + 60.0, 60.0)
    assert "outside that; starting up took 1 min 00 s, said were" in slow and slow.startswith("estimate() said about")


def of_endpoint(**limits: object) -> Estimate:
    """Of 64 rows at 64 at once, of 100 and 50 tokens, in 2 s."""
    load = [(0.05, 64.0, 0.0), (1.9, 64.0, 3200.0), (2.0, 0.0, 3200.0)]
    whole = Trial(2.0, [50] * 64, load=load, input_tokens=[100] * 64)
    sample = Sample(whole.input_tokens, [], 0.0001, Trial(0.0, []), whole)
    kwargs = {"million_input_tokens_usd": 2.0, "million_output_tokens_usd": 8.0, **limits}
    kind = OpenAI()
    limits_of_kind: Any = {"least_s": partial(kind.least_s, kwargs), "tokens_usd": partial(kind.cost_usd, kwargs)}
    return on_a_cpu(sample, 64_000, max_num_seqs=64, **limits_of_kind)


def test_an_endpoints_time_is_by_its_rate_or_its_limits_and_tokens_have_a_price() -> None:
    said = of_endpoint()
    assert said.bound_by == "endpoint" and said.prefill_share is None and 1800 < said.run_s < 2100
    assert said.cost_usd == pytest.approx(64_000 * (100 * 2 + 50 * 8) / 1e6)
    assert "cost     $38.40 for these tokens" in str(said) and "prefill" not in str(said)
    by_requests, by_tokens = of_endpoint(requests_per_minute=600), of_endpoint(tokens_per_minute=60_000)
    assert by_requests.bound_by == by_tokens.bound_by == "rate limits"
    assert by_requests.run_s == 6400 + PIPELINE_S and by_tokens.run_s == 9600 + PIPELINE_S
