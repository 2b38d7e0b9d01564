"""No engine process outlives its replica, not even when the replica is killed outright.

vLLM's engine process does not watch its parent: after the actor's death it would keep the GPU's memory. So each replica
starts this small process, which remembers the replica's descendants and ends them once it is gone. (A pipe would not
tell: a forked engine process inherits it and keeps it open.) It is no child of the replica, since Ray kills those
together with their actor, and in a session of its own, since Ray may kill the actor's process group.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

_CODE = """
import contextlib, os, signal, sys, time
if os.fork():
    os._exit(0)
os.setsid()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
os.write(1, b"%d\\n" % os.getpid())
os.close(1)

import psutil

seen = {}

def is_alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False

def remember_children(process):
    with contextlib.suppress(psutil.Error):
        seen.update((child.pid, child) for child in process.children(recursive=True))

try:
    parent = psutil.Process(int(sys.argv[1]))
except psutil.Error:
    sys.exit()
while is_alive(parent):
    remember_children(parent)
    time.sleep(0.3)
for child in list(seen.values()):
    remember_children(child)  # what it started since the last look
alive = [child for child in seen.values() if is_alive(child)]
for child in alive:
    with contextlib.suppress(psutil.Error):
        child.kill()
deadline = time.monotonic() + 10
while any(map(is_alive, alive)) and time.monotonic() < deadline:
    time.sleep(0.05)
"""


class Reaper:
    """Started by the replica before its engine; ends by itself when the replica's process ends.

    pid: of the process that is gone only after every engine process of this replica is.
    """

    def __init__(self) -> None:
        code = [sys.executable, "-c", _CODE, str(os.getpid())]
        nothing = subprocess.DEVNULL
        with subprocess.Popen(code, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing) as started:
            self.pid = int(started.stdout.readline())  # type: ignore[union-attr]

    def end_others(self, patience_s: float = 20.0) -> None:
        """End what an engine that did not start has left: all that this process started, but multiprocessing's own."""
        import psutil

        this = psutil.Process()
        kept = {child.pid for child in this.children() if _is_multiprocessings_own(child)}
        left = [child for child in this.children(recursive=True) if child.pid not in kept]
        _, alive = psutil.wait_procs(left, timeout=patience_s / 2)  # most end by themselves
        for child in alive:
            try:
                child.kill()
            except psutil.Error:
                pass
        psutil.wait_procs(alive, timeout=patience_s / 2)


def _is_multiprocessings_own(child: Any) -> bool:
    """Which serves the next engine too. (What a forkserver forks may have its command line, but is a grandchild.)"""
    import psutil

    try:
        command = " ".join(child.cmdline())
    except psutil.Error:
        return False
    return "multiprocessing.forkserver" in command or "multiprocessing.resource_tracker" in command
