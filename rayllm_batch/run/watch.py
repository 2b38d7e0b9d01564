"""Asks the run's monitor how things are, every second, and passes it on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from rayllm_batch.measures.snapshot import Snapshot

POLL_S = 1.0

log = logging.getLogger("rayllm_batch")


class Watch:
    """A context manager around the run. Each of `observers` is called with every snapshot, from one thread.

    The last snapshot is taken when the run is over, so that it has all rows.
    """

    def __init__(self, monitor: Any, observers: list[Callable[[Snapshot], None]]) -> None:
        self._monitor, self._observers = monitor, observers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rayllm-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _watch(self) -> None:
        import ray

        said_before = ""
        over = False
        while not over:
            over = self._stop.wait(POLL_S)
            try:
                snapshot = Snapshot.of(ray.get(self._monitor.snapshot.remote(), timeout=5))
            except Exception:  # the run's end is not the watch's to report
                continue
            for observe in self._observers:
                try:
                    observe(snapshot)
                except Exception as error:  # such as an actor that is gone already: the next snapshot is another try
                    if (said := f"Watching the run failed: {type(error).__name__}: {error}") != said_before:
                        log.warning("%s", said)
                    said_before = said
