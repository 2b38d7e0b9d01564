"""Whether an engine's process still reads its requests.

vLLM's engine reads them in a thread of its own. When that thread ends, by a request that it cannot decode, the process lives
on, idle, and answers nothing: no error tells. It is known by what it does not do: it has requests, no step ends, and none of
its processes computes, while one at work, on a GPU too, keeps a core busy.
"""

from __future__ import annotations

import os
import time
from typing import Optional

DEAF_S = 30.0  # an adapter that is read from a slow disk takes seconds without a step, and without a core
BUSY = 0.02  # of one core: an idle engine's timers take a tenth of that


class Hearing:
    """Asked every second or so."""

    def __init__(self) -> None:
        self._steps: object = None
        self._since = 0.0
        self._cpu_s: Optional[float] = None

    def is_lost(self, requests: int, steps: object) -> bool:
        """requests: that it has not answered. steps: anything that differs after each step that it ends."""
        now = time.monotonic()
        if not requests or steps != self._steps:
            self._steps, self._since, self._cpu_s = steps, now, None
            return False
        if self._cpu_s is None:
            self._since, self._cpu_s = now, _cpu_seconds()
        elif now - self._since >= DEAF_S:
            computed = _cpu_seconds() - self._cpu_s
            if computed < BUSY * (now - self._since):
                return True
            self._cpu_s = None
        return False


def _cpu_seconds() -> float:
    """Of this process's children and theirs, so far."""
    import psutil

    total = 0.0
    for child in psutil.Process(os.getpid()).children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total
