"""Ends what does not move: a replica that answers nothing is started again, then the run fails and says at what."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Optional, cast

from rayllm_batch.cluster import resources
from rayllm_batch.errors import EngineError
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot

WARN_AFTER_S = 60.0  # without a place for any replica


class Watchdog:
    """An observer of the run, and a context manager around it.

    stall_timeout_s: seconds without a sign of life. Of a replica that has rows: no row finished and no engine step; of
                     one that starts: nothing new in its log (a download has limits of its own); of the run: no replica
                     placed, or no row on its way.
    monitor_call:    calls a method of the monitor by name and returns what it returns.
    restart:         restarts a replica's actor, given its key.
    """

    def __init__(
        self,
        stall_timeout_s: float,
        monitor_call: Callable[..., Any],
        restart: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self._timeout = stall_timeout_s
        self._call, self._restart, self._say = monitor_call, restart, say
        self._signs: dict[str, tuple[Any, float]] = {}
        self._stalled: set[str] = set()
        self._run_sign: tuple[Any, float] = (None, time.monotonic())
        self._warned = False
        self._aborting: Optional[str] = None
        self._over, self._signalling = False, threading.Lock()
        self._old_handler: Any = None
        self._in_main_thread = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Watchdog:
        # A signal, because the driver waits inside Ray, where nothing else reaches it. SIGINT would not do: a job in
        # the background ignores it.
        if self._in_main_thread:
            self._old_handler = signal.signal(signal.SIGUSR1, self._raise)
        return self

    def __exit__(self, *_: Any) -> None:
        self._over = True  # from here on a signal that is on its way does nothing
        if self._in_main_thread:
            with self._signalling:  # without a handler, one that comes later would end the process
                signal.signal(signal.SIGUSR1, self._old_handler or signal.SIG_DFL)

    def observe(self, snapshot: Snapshot) -> None:
        now, replicas = time.monotonic(), snapshot.replicas
        for key, replica in replicas.items():
            if replica.state in ("starting", "ready") and key not in self._stalled:
                self._look_at(key, replica, now)
        live = [replica for replica in replicas.values() if replica.is_live]
        idle = not any(replica.state != "ready" or replica.in_flight for replica in live)
        sign = (len(replicas), sum(replica.rows for replica in replicas.values())) if idle else now
        if sign != self._run_sign[0]:
            self._run_sign = (sign, now)
        self._look_at_run(bool(live), now - self._run_sign[1])

    def _look_at(self, key: str, replica: ReplicaState, now: float) -> None:
        sign: tuple[Any, ...] = (replica.state, replica.rows, replica.steps)
        if replica.state == "starting":
            sign = (*sign, replica.log_bytes)  # of one that has rows, words are no work
        elif not replica.in_flight:
            sign = (*sign, now)  # it has nothing to do
        if key not in self._signs or self._signs[key][0] != sign:
            self._signs[key] = (sign, now)
        elif now - self._signs[key][1] >= self._timeout:
            message = self._describe(key, replica)
            again = self._call("stalled", key, message)
            self._stalled.add(key)
            self._say(f"{message}{' It is started again.' if again else ''}")
            self._restart(key)

    def _describe(self, key: str, replica: ReplicaState) -> str:
        where = f"Replica {key} on {replica.node}"
        log = f" Its log: {replica.log}." if replica.log else ""
        limit = f"{self._timeout:g} s (stall_timeout_s)"
        if replica.state == "starting":
            return f"{where} has been starting its engine without a word for {limit}.{log}"
        return (
            f"{where} has finished no row for {limit}: {replica.in_flight:,} rows in it, {replica.running:,.0f} "
            f"running, {replica.waiting:,.0f} waiting, KV cache {100 * (replica.kv_cache_usage or 0.0):.0f}%.{log}"
        )

    def _look_at_run(self, live: bool, idle_s: float) -> None:
        if not live and idle_s >= min(WARN_AFTER_S, self._timeout) and not self._warned:
            self._warned = True
            self._say(f"No replica has a place on the cluster yet. {resources.free()}")
        limit = self._timeout if live else max(self._timeout, WARN_AFTER_S)  # a replica that starts again takes a while
        if idle_s < limit or self._aborting:
            return
        if not live:
            why = f"No replica found a place on the cluster for {limit:g} s (stall_timeout_s). {resources.free()}"
        else:
            why = (
                f"No row reached an engine for {self._timeout:g} s (stall_timeout_s). Reading the data or parse_row "
                f"hangs or is very slow, or the CPUs are taken. {resources.free()}"
            )
        self._call("failed", "EngineError", why)
        self._aborting = why
        if not self._in_main_thread:
            self._say(why)
            return
        with self._signalling:
            if not self._over:
                signal.pthread_kill(cast(int, threading.main_thread().ident), signal.SIGUSR1)

    def _raise(self, _number: int, _frame: Optional[FrameType]) -> None:
        if self._aborting and not self._over:
            raise EngineError(self._aborting)
