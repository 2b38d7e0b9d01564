"""What the watchdog takes for a stall, and how it ends a run: snapshots of this file's own, and its own clock."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from typing import Any

import pytest

from rayllm_batch.cluster import resources
from rayllm_batch.errors import EngineError
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot
from rayllm_batch.run import watchdog
from rayllm_batch.run.watchdog import WARN_AFTER_S, Watchdog

TIMEOUT_S = 100.0
STARTING = ReplicaState(state="starting", node="10.0.0.1", log="/tmp/the.log", log_bytes=5)
READY = ReplicaState(state="ready", node="10.0.0.1", log="/tmp/the.log", log_bytes=9, rows=3, steps=7)
BUSY = replace(READY, in_flight=1200, running=3.0, waiting=1197.0, kv_cache_usage=0.256)


class Scene:
    """The run as the watchdog sees it, a snapshot a second on a clock that costs no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, timeout: float = TIMEOUT_S) -> None:
        self.now, self.calls, self.restarted, self.said = 1000.0, [], [], []
        self.again, self.call_error, self.restart_error = True, None, None
        monkeypatch.setattr(watchdog.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(resources, "free", lambda: "The cluster has no GPU, 2 CPUs on 1 node; free: 0 CPUs.")
        self.signals: list[int] = []
        monkeypatch.setattr(watchdog.signal, "pthread_kill", lambda _, number: self.signals.append(number))
        self.dog = Watchdog(timeout, self.call, self.restart, self.said.append)

    def call(self, method: str, *arguments: Any) -> bool:
        if self.call_error:
            raise self.call_error
        self.calls.append((method, *arguments))
        return self.again

    def restart(self, key: str) -> None:
        self.restarted.append(key)
        if self.restart_error:
            raise self.restart_error

    def passes(self, seconds: float, *replicas: ReplicaState, **changing: Any) -> None:
        """`changing`: what of the replicas is another value in each snapshot, counted on from there."""
        for second in range(int(seconds)):
            self.now += 1
            now = {name: start + second for name, start in changing.items()}
            self.dog.observe(Snapshot({f"key{n}": replace(replica, **now) for n, replica in enumerate(replicas)}))

    @property
    def quiet(self) -> bool:
        return not (self.calls or self.restarted or self.signals)

    @property
    def ended(self) -> str | None:
        reasons = [arguments[-1] for arguments in self.calls if arguments[0] == "failed"]
        assert len(reasons) <= 1 and len(self.signals) == len(reasons)
        return reasons[0] if reasons else None


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_a_busy_replica_is_left_alone(scene: Scene) -> None:
    scene.passes(10 * TIMEOUT_S, BUSY, rows=1)
    assert scene.quiet and not scene.said


def test_a_long_generation_shows_by_its_steps(scene: Scene) -> None:
    scene.passes(10 * TIMEOUT_S, BUSY, steps=1)
    assert scene.quiet


@pytest.mark.parametrize("changing", [{}, {"log_bytes": 1}, {"in_flight": 1}, {"running": 1}, {"busy_s": 1}])
def test_a_hung_engine_is_started_again(changing: dict, scene: Scene) -> None:
    """Words in its log are no work, nor are rows that pile up."""
    scene.passes(TIMEOUT_S, BUSY, **changing)
    assert scene.quiet, "not a second too early"
    scene.passes(2, BUSY, **changing)
    assert scene.restarted == ["key0"] and scene.calls[0][:2] == ("stalled", "key0")
    scene.passes(5, BUSY, **changing)
    assert len(scene.restarted) == len(scene.calls) == len(scene.said) == 1, "once"


def test_what_a_stall_says(scene: Scene) -> None:
    scene.passes(TIMEOUT_S + 2, BUSY)
    assert scene.said == [
        "Replica key0 on 10.0.0.1 has finished no row for 100 s (stall_timeout_s): 1,200 rows in it, 3 running, "
        "1,197 waiting, KV cache 26%. Its log: /tmp/the.log. It is started again."
    ]
    assert scene.calls[0][2] + " It is started again." == scene.said[0]


def test_the_last_stall_does_not_promise_another_start(scene: Scene) -> None:
    scene.again = False
    scene.passes(TIMEOUT_S + 2, BUSY)
    assert scene.restarted and "started again" not in scene.said[0]


def test_one_hung_replica_beside_a_busy_one(scene: Scene) -> None:
    for second in range(int(TIMEOUT_S) + 5):
        scene.passes(1, replace(BUSY, steps=second), BUSY)
    assert scene.restarted == ["key1"]


def test_a_replica_without_rows_is_no_stall_while_another_works(scene: Scene) -> None:
    for second in range(10 * int(TIMEOUT_S)):
        scene.passes(1, replace(BUSY, steps=second), replace(READY, in_flight=0))
    assert scene.quiet


def test_a_replica_that_had_nothing_to_do_has_its_full_time_once_rows_come(scene: Scene) -> None:
    for second in range(5 * int(TIMEOUT_S)):
        scene.passes(1, replace(BUSY, steps=second), READY)
    for second in range(int(TIMEOUT_S)):
        scene.passes(1, replace(BUSY, steps=-second), BUSY)
    assert scene.quiet
    scene.passes(2, replace(BUSY, steps=-10_000), BUSY)
    assert scene.restarted == ["key1"]


def test_a_slow_start_that_writes_its_log_is_left_alone(scene: Scene) -> None:
    scene.passes(10 * TIMEOUT_S, STARTING, log_bytes=1)
    assert scene.quiet


def test_a_silent_download_is_left_alone(scene: Scene) -> None:
    scene.passes(10 * TIMEOUT_S, replace(STARTING, state="downloading"))
    assert scene.quiet


def test_a_silent_start_is_started_again(scene: Scene) -> None:
    scene.passes(TIMEOUT_S, STARTING)
    assert scene.quiet
    scene.passes(2, STARTING)
    assert scene.restarted == ["key0"]
    assert (
        "has been starting its engine without a word for 100 s (stall_timeout_s). Its log: /tmp/the.log."
        in scene.said[0]
    )


@pytest.mark.parametrize("state", ["dead", "failed", "stalled"])
def test_a_replica_that_has_ended_is_not_started_again(state: str, scene: Scene) -> None:
    for second in range(3 * int(TIMEOUT_S)):
        scene.passes(1, replace(BUSY, state=state), replace(BUSY, steps=second))
    assert scene.quiet


def test_nothing_placed_is_said_and_then_ends_the_run(scene: Scene) -> None:
    scene.passes(WARN_AFTER_S + 1)
    assert scene.said == [
        "No replica has a place on the cluster yet. The cluster has no GPU, 2 CPUs on 1 node; free: 0 CPUs."
    ]
    assert scene.quiet
    scene.passes(TIMEOUT_S)
    assert scene.ended.startswith(
        "No replica found a place on the cluster for 100 s (stall_timeout_s). The cluster has"
    )
    assert len(scene.said) == 1


def test_a_replica_that_starts_again_gets_a_minute_however_short_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, timeout=4)
    scene.passes(WARN_AFTER_S - 1, replace(BUSY, state="dead"))
    assert scene.quiet
    scene.passes(2, replace(BUSY, state="dead"))
    assert "for 60 s" in scene.ended


def test_all_lost_ends_the_run(scene: Scene) -> None:
    scene.passes(50, BUSY, BUSY, steps=1)
    scene.passes(TIMEOUT_S + 2, replace(BUSY, state="dead"), replace(BUSY, state="dead"))
    assert "No replica found a place" in scene.ended


def test_lost_without_a_word_is_a_stall_and_then_the_end(scene: Scene) -> None:
    """Its node has gone: its last report stays as it was, and there is nothing to kill."""
    scene.restart_error = RuntimeError("no such actor")
    scene.passes(TIMEOUT_S, BUSY)
    with pytest.raises(RuntimeError):
        scene.passes(2, BUSY)
    scene.passes(TIMEOUT_S + 5, replace(BUSY, state="stalled"))
    assert scene.restarted == ["key0"] and "No replica found a place" in scene.ended


def test_a_monitor_that_does_not_answer_is_asked_again(scene: Scene) -> None:
    scene.call_error = TimeoutError("10 s")
    with pytest.raises(TimeoutError):
        scene.passes(TIMEOUT_S + 2, BUSY)
    assert not scene.restarted
    scene.call_error = None
    scene.passes(1, BUSY)
    assert scene.restarted == ["key0"] and scene.calls[0][0] == "stalled"


def test_an_end_that_the_monitor_did_not_hear_of_is_tried_again(scene: Scene) -> None:
    scene.call_error = TimeoutError("10 s")
    with pytest.raises(TimeoutError):
        scene.passes(TIMEOUT_S + 2, READY)
    scene.call_error = None
    scene.passes(1, READY)
    assert "No row reached an engine" in scene.ended


def test_rows_that_never_come_end_the_run(scene: Scene) -> None:
    scene.passes(TIMEOUT_S, STARTING, log_bytes=1)
    scene.passes(TIMEOUT_S, READY)
    assert scene.quiet, "the time counts from when the engine was ready"
    scene.passes(2, READY)
    assert scene.ended.startswith(
        "No row reached an engine for 100 s (stall_timeout_s). Reading the data or parse_row hangs"
    )
    scene.passes(500, READY)
    assert scene.ended, "once"


def test_rows_that_come_one_at_a_time_are_no_stall(scene: Scene) -> None:
    """Each is answered between two snapshots, so that none is ever seen in flight."""
    for second in range(10):
        scene.passes(TIMEOUT_S - 1, replace(READY, rows=second))
    assert scene.quiet


# --- how a run is ended


def test_the_signal_raises_what_is_wrong_in_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    real = signal.pthread_kill
    scene = Scene(monkeypatch)
    monkeypatch.setattr(watchdog.signal, "pthread_kill", real)
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(EngineError, match="No row reached an engine for 100 s"), scene.dog:
        thread = threading.Thread(target=scene.passes, args=(TIMEOUT_S + 2, READY))
        thread.start()
        threading.Event().wait(60)  # as a driver waits inside Ray
    thread.join()
    assert signal.getsignal(signal.SIGUSR1) is before


def test_the_handler_is_put_back(scene: Scene) -> None:
    def mine(*_: Any) -> None:
        pass

    before = signal.signal(signal.SIGUSR1, mine)
    try:
        with scene.dog:
            assert signal.getsignal(signal.SIGUSR1) is not mine
            signal.raise_signal(signal.SIGUSR1)  # somebody else's: nothing is wrong, so nothing happens
        assert signal.getsignal(signal.SIGUSR1) is mine
        with pytest.raises(KeyError), Scene(pytest.MonkeyPatch()).dog:
            raise KeyError
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_no_signal_after_the_run_has_ended(scene: Scene) -> None:
    """Without a handler, it would end the process: a notebook's kernel."""
    with scene.dog:
        pass
    scene.passes(TIMEOUT_S + 2, READY)
    assert scene.calls and not scene.signals


def test_a_signal_on_its_way_does_not_fail_a_run_that_has_ended(scene: Scene) -> None:
    with scene.dog:
        scene.passes(TIMEOUT_S + 2, READY)
        handler = signal.getsignal(signal.SIGUSR1)
        with pytest.raises(EngineError):
            handler(signal.SIGUSR1, None)
    handler(signal.SIGUSR1, None)


def test_outside_the_main_thread_it_says_so_and_touches_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    before, made = signal.getsignal(signal.SIGUSR1), []

    def run() -> None:
        made.append(Scene(monkeypatch))
        with made[0].dog:
            made[0].passes(TIMEOUT_S + 2, READY)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (scene,) = made
    assert [call[0] for call in scene.calls] == ["failed"] and not scene.signals
    assert len(scene.said) == 1 and "No row reached an engine" in scene.said[0]
    assert signal.getsignal(signal.SIGUSR1) is before
