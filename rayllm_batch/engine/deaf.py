"""Whether an engine's process still reads its requests.

vLLM's engine reads them in a thread of its own. When that thread ends, by a request that it cannot decode, the process
lives on, idle, and answers nothing: no error tells. It is known by what it does not do: it has requests, no step ends,
and none of its processes computes, while one at work, on a GPU too, keeps a core busy.
"""

from __future__ import annotations

import time
from typing import Any, Optional

DEAF_S = 30.0  # an adapter that is read from a slow disk takes seconds without a step, and without a core
OF_RAY = ("ray::RayWorker", "VLLM::Worker")  # names of the processes of an executor that has its workers from Ray
BUSY = 0.02  # of one core: an idle engine's timers take a tenth of that
Process = tuple[int, float]  # its number, which may be given again, and when it began


class Hearing:
    """Asked every second or so."""

    def __init__(self) -> None:
        self._steps: object = None
        self._since = 0.0
        self._cpu_s: Optional[dict[Process, float]] = None

    def is_lost(self, requests: int, steps: object) -> bool:
        """requests: that it has not answered. steps: anything that differs after each step that it ends."""
        now = time.monotonic()
        if not requests or steps != self._steps:
            self._steps, self._since, self._cpu_s = steps, now, None
            return False
        if self._cpu_s is None:
            self._since, self._cpu_s = now, _cpu_seconds()
        elif now - self._since >= DEAF_S:
            # Each process by itself: of one that has ended meanwhile, nothing is known, and nothing taken off.
            computed = sum(seconds - self._cpu_s.get(process, 0.0) for process, seconds in _cpu_seconds().items())
            if computed < BUSY * (now - self._since):
                return True
            self._cpu_s = None
        return False


def _cpu_seconds() -> dict[Process, float]:
    """So far, of each of this process's children and theirs, and of workers on this machine that are Ray's children."""
    import psutil

    used, children = {}, set()
    try:
        children = {*psutil.Process().children(recursive=True)}
    except psutil.Error:  # one of them has ended meanwhile
        pass
    for process in psutil.process_iter():
        try:
            if process in children or process.name().startswith(OF_RAY) and _is_rays(process.parent()):
                times = process.cpu_times()
                used[process.pid, process.create_time()] = times.user + times.system
        except psutil.Error:
            continue
    return used


def _is_rays(parent: Any) -> bool:
    return parent is not None and parent.name() == "raylet"
