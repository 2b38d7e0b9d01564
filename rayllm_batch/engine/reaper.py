"""No engine process outlives its replica, not even when the replica is killed outright.

vLLM's engine process does not watch its parent: after a SIGKILL of the actor it would keep the GPU's memory. So
each replica starts this small process beside it, which remembers the replica's descendants and ends them once the
replica is gone. (A pipe would not tell: a forked engine process inherits it and keeps it open.)
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

_CODE = """
import os, signal, sys, time
import psutil
os.setsid()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
parent, seen = int(sys.argv[1]), {}
while os.getppid() == parent:
    try:
        for child in psutil.Process(parent).children(recursive=True):
            if child.pid != os.getpid():
                seen.setdefault(child.pid, child)
    except psutil.Error:
        pass
    time.sleep(0.3)
alive = [child for child in seen.values() if child.is_running()]
for child in alive:
    try:
        child.kill()
    except psutil.Error:
        pass
psutil.wait_procs(alive, timeout=10)
"""


class Reaper:
    """Started by the replica before its engine; ends by itself when the replica's process ends."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, str(os.getpid())],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )

    def end_others(self, patience_s: float = 20.0) -> None:
        """End what an engine that did not start has left: all that this process started but the reaper and multiprocessing's own."""
        import psutil

        this = psutil.Process()
        kept = {self.pid, *(child.pid for child in this.children() if _is_multiprocessings_own(child))}
        left = [child for child in this.children(recursive=True) if child.pid not in kept]
        _, alive = psutil.wait_procs(left, timeout=patience_s / 2)  # most end by themselves
        for child in alive:
            try:
                child.kill()
            except psutil.Error:
                pass
        psutil.wait_procs(alive, timeout=patience_s / 2)

    @property
    def pid(self) -> int:
        """The process that is gone only after every engine process of this replica is."""
        return self._process.pid


def _is_multiprocessings_own(child: Any) -> bool:
    """Of a child of this process: it serves the next engine too, and ends with this process. (The engine that a forkserver
    forks is a grandchild, and may have the same command line.)"""
    import psutil

    try:
        command = " ".join(child.cmdline())
    except psutil.Error:
        return False
    return "multiprocessing.forkserver" in command or "multiprocessing.resource_tracker" in command
