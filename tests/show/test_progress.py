"""What is said once in a run, and what the line is made of: the monitor's snapshots are this file's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest

from rayllm_batch.measures.snapshot import ReplicaState, Snapshot
from rayllm_batch.show import progress as progress_module
from rayllm_batch.show.progress import Progress
from rayllm_batch.show.status import Status

STARTING = ReplicaState(
    node="10.0.0.1", pid=1, state="starting", log="/tmp/ray/session_1/logs/rayllm_batch-aaaa-k1.log"
)
READY = replace(STARTING, state="ready", start_s=41.6, settings={"max_num_seqs": 128, "max_model_len": 8192}, rows=0)


class Kept:
    """A view that keeps what it is given."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[str] = []
        self.final: Any = "open"

    def show(self, status: Status) -> None:
        self.shown.append(status.text())

    def say(self, text: str) -> None:
        self.said.append(text)

    def close(self, final: Optional[Status]) -> None:
        self.final = final.text() if final else None


@pytest.fixture
def view() -> Kept:
    return Kept()


def snapshot(**replicas: ReplicaState) -> Snapshot:
    return Snapshot(replicas)


def test_where_the_logs_are_and_the_resolved_settings_are_said_once(view: Kept) -> None:
    with Progress(2, None, view=view) as progress:
        for replicas in ({}, {"k1": STARTING}, {"k1": STARTING, "k2": READY}, {"k1": READY, "k2": READY}):
            progress.observe(snapshot(**replicas))
    assert view.said == [
        "Engine logs: /tmp/ray/session_1/logs/rayllm_batch-aaaa-*.log, on the node of each; Ray's own are beside them.",
        "Engine ready in 42 s: max_num_seqs=128, max_model_len=8192",
    ]


def test_the_rate_is_of_the_last_seconds_and_begins_when_an_engine_is_ready(
    view: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    progress = Progress(1, 1000, view=view)
    for _ in range(50):
        progress.observe(snapshot(k1=STARTING))
        now[0] += 1
    assert view.shown[-1] == "starting engine 1 of 1 ... 49 s"
    for second in range(21):
        rows = 10 * second
        progress.observe(snapshot(k1=replace(READY, rows=rows, output_tokens=5 * rows, busy_s=float(second))))
        now[0] += 1
    assert view.shown[-1].startswith(
        "generating: 200 of 1,000 rows (20%), 1 min 20 s left, 50 output tokens/s, 50 on average, "
    )


def test_a_run_that_goes_well_ends_with_its_figures(view: Kept) -> None:
    with Progress(1, 10, view=view) as progress:
        progress.observe(snapshot(k1=replace(READY, rows=10, failed=1)))
    assert view.final == "done in 0 s: 10 of 10 rows (100%), 1 failed"


def test_a_failure_before_any_engine_says_where_the_logs_are(view: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/scratch")
    with pytest.raises(KeyError), Progress(1, 10, view=view):
        raise KeyError("of a read")
    assert view.said == ["Ray's logs: /scratch/ray/session_latest/logs"] and view.final is None


def test_an_interrupt_needs_no_logs(view: Kept) -> None:
    with pytest.raises(KeyboardInterrupt), Progress(1, 10, view=view) as progress:
        progress.observe(snapshot())
        raise KeyboardInterrupt
    assert not view.said and view.final is None


def test_verbose_follows_the_engines_logs(view: Kept, tmp_path: Path) -> None:
    log = tmp_path / "rayllm_batch-aaaa-k1.log"
    log.write_text(":actor_name:Replica\nINFO loading\nINFO half a li")
    progress = Progress(1, 10, verbose=True, view=view)
    replicas = {
        "k1": replace(STARTING, log=str(log)),
        "k2": replace(STARTING, log="/not/here/rayllm_batch-aaaa-k2.log"),
    }
    progress.observe(snapshot(**replicas))
    with log.open("a") as file:
        file.write("ne\n\nWARNING last\n")
    progress.observe(snapshot(**replicas))
    progress.observe(snapshot(**replicas))
    assert view.said[1:] == [
        "(k1) INFO loading",
        "(k2) its log is on another node: ray logs cluster rayllm_batch-aaaa-k2.log --node-ip 10.0.0.1 --follow",
        "(k1) INFO half a line",
        "(k1) WARNING last",
    ]


def test_without_verbose_the_logs_stay_where_they_are(view: Kept, tmp_path: Path) -> None:
    log = tmp_path / "rayllm_batch-aaaa-k1.log"
    log.write_text("INFO loading\n")
    Progress(1, 10, view=view).observe(snapshot(k1=replace(STARTING, log=str(log))))
    assert len(view.said) == 1 and view.said[0].startswith("Engine logs: ")
