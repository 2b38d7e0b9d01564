"""Asks the run's monitor how things are, every second, and passes it on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rayllm_batch.measures.snapshot import Snapshot

POLL_S = 1.0

log = logging.getLogger("rayllm_batch")


@contextmanager
def watching(monitor: Any, observers: Sequence[Callable[[Snapshot], None]]) -> Iterator[None]:
    """Around the run: each of `observers` is called with every snapshot, from one thread.

    The last snapshot is taken when the run is over, so that it has all rows.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(monitor, observers, stop), name="rayllm-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)


def _watch(monitor: Any, observers: Sequence[Callable[[Snapshot], None]], stop: threading.Event) -> None:
    import ray

    said_before = ""
    over = False
    while not over:
        over = stop.wait(POLL_S)
        try:
            snapshot = Snapshot.of(ray.get(monitor.snapshot.remote(), timeout=5))
        except Exception:  # the run's end is not the watch's to report
            continue
        for observe in observers:
            try:
                observe(snapshot)
            except Exception as error:  # such as an actor that is gone already: the next snapshot is another try
                if (said := f"Watching the run failed: {type(error).__name__}: {error}") != said_before:
                    log.warning("%s", said)
                said_before = said
