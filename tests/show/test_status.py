"""The words of the line that a person watches while a run goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayllm_batch.measures.rates import Rates
from rayllm_batch.measures.row_stats import Counts
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot
from rayllm_batch.show.status import Status, duration, final_status, status

READY = ReplicaState(
    state="ready",
    start_s=41.6,
    rows=1200,
    input_tokens=400_000,
    output_tokens=30_000,
    busy_s=20.0,
    running=48.0,
    waiting=12.0,
    kv_cache_usage=0.374,
    in_flight=60,
)
STARTING = ReplicaState(node="10.0.0.1", pid=1, state="starting")


def of(
    *replicas: ReplicaState,
    n: int = 1,
    total: int | None = 5000,
    s: float = 7.4,
    before: dict[str, int] | None = None,
    folder: bool = False,
) -> Status:
    """before: the counts ten seconds ago."""
    snapshot, rates = Snapshot({str(number): replica for number, replica in enumerate(replicas)}), Rates()
    if before is not None:
        rates.add(100.0, Counts(**before))
    rates.add(110.0, Counts.total(replicas))
    return status(snapshot, n, total, rates, s, to_folder=folder)


def test_before_any_replica() -> None:
    assert of(n=2).text() == "preparing rows and 2 replica(s) ... 7 s"


def test_the_model_is_downloaded() -> None:
    assert of(replace(STARTING, state="downloading"), STARTING, n=2).text() == "downloading the model ... 7 s"


def test_engines_start() -> None:
    assert of(STARTING, n=2, s=83).text() == "starting engine 1 of 2 ... 1 min 23 s"
    assert of(STARTING, STARTING, n=4).text() == "starting engine 2 of 4 ... 7 s"


def test_an_engine_that_starts_again_has_not_lost_its_rows() -> None:
    died = replace(READY, state="dead")
    assert of(died, STARTING).text() == "starting engine 1 of 1 ... 7 s: 1,200 of 5,000 rows (24%)"


def test_generating() -> None:
    before = {"rows": 1100, "input_tokens": 380_000, "output_tokens": 28_000}
    assert of(replace(READY, failed=3, gpu_utilization=0.97), before=before).text() == (
        "generating: 1,200 of 5,000 rows (24%), 3 failed, 6 min 20 s left, 200 output tokens/s, 1,500 on average, "
        "2,000 input tokens/s, 20,000 on average, 48 running, 12 waiting, KV cache 37%, GPU 97%"
    )


def test_an_unknown_number_of_rows_has_no_share_and_no_end() -> None:
    text = of(READY, total=None, before={"rows": 100}).text()
    assert text.startswith("generating: 1,200 rows, 3,000 output") and "left" not in text and "(" not in text


def test_before_there_is_a_rate_the_average_is_all_there_is() -> None:
    assert ", 1,500 output tokens/s, 20,000 input tokens/s, " in of(READY).text()


def test_ready_and_nothing_done_yet() -> None:
    shown = of(ReplicaState(state="ready", start_s=1.0), before={}).text()
    assert shown == "generating: 0 of 5,000 rows (0%), 0 running, 0 waiting", "nothing tells of the KV cache yet"
    trial = of(ReplicaState(state="ready", rows=0, running=512, waiting=768, kv_cache_usage=0.07), total=None).text()
    assert trial == "generating: 512 running, 768 waiting, KV cache 7%"


def test_a_standstill_shows() -> None:
    same = {key: getattr(READY, key) for key in ("rows", "input_tokens", "output_tokens")}
    text = of(READY, before=same).text()
    assert "0 output tokens/s, 1,500 on average" in text and "left" not in text


def test_several_replicas_are_added_up() -> None:
    second = replace(READY, rows=100, busy_s=10.0, kv_cache_usage=0.9, running=2, gpu_utilization=0.5)
    text = of(replace(READY, gpu_utilization=None), second, n=2).text()
    assert "1,300 of 5,000 rows" in text and "3,000 output tokens/s" in text, (
        "over the time in which the busiest was busy"
    )
    assert "50 running, 24 waiting, KV cache 90%, GPU 50%" in text and "replicas ready" not in text


def test_some_replicas_still_start() -> None:
    assert ", 1 of 3 replicas ready, " in of(READY, STARTING, n=3).text()


def test_what_a_replica_did_before_it_died_counts() -> None:
    died = replace(READY, state="dead", rows=50, running=7, actor_id="a")
    text = of(replace(READY, actor_id="a"), died).text()
    assert "1,250 of 5,000 rows" in text and "48 running" in text
    assert "1,500 output tokens/s" in text, "both processes' tokens, over both processes' time"


def test_writing_is_when_all_is_answered_and_goes_to_a_folder() -> None:
    done = replace(READY, rows=5000, in_flight=0)
    assert of(done, folder=True).text().startswith("writing: 5,000 of 5,000 rows (100%), ")
    assert of(done).phase == "generating"
    again = replace(READY, rows=5040, in_flight=64)  # some were answered twice, after an engine died
    assert of(again, folder=True).text().startswith("generating: 5,000 of 5,000 rows (100%)")
    assert of(replace(done, rows=4999), folder=True).phase == of(done, folder=True, total=None).phase == "generating"


def test_the_end() -> None:
    text = final_status(Snapshot({"a": replace(READY, rows=5000, failed=2)}), 5000, 65.2).text()
    assert (
        text == "done in 1 min 05 s: 5,000 of 5,000 rows (100%), 2 failed, 1,500 output tokens/s, 20,000 input tokens/s"
    )
    assert final_status(Snapshot(), None, 3).text() == "done in 3 s: 0 rows"


def test_what_matters_less_goes_first_where_room_is_short() -> None:
    before = {"rows": 1100, "input_tokens": 380_000, "output_tokens": 28_000}
    made = of(replace(READY, failed=3, gpu_utilization=0.97), before=before)
    for width in range(1, 240):
        assert len(made.text(width)) <= width
    assert made.text(240) == made.text()
    assert made.text(110) == (
        "generating: 1,200 of 5,000 rows (24%), 3 failed, 6 min 20 s left, 200 output tokens/s, 12 waiting, GPU 97%"
    )
    assert made.text(60) == "generating: 1,200 of 5,000 rows (24%), 6 min 20 s left"
    assert made.text(20) == "generating: 1,200 of"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (200_000, "55 h 33 min"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
