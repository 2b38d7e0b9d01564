"""What a replica started is ended when its actor is, however that ends."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import psutil
import pytest

from rayllm_batch.run.session import _is_there, _wait_gone

# An engine's process, of which a forkserver is the parent, with one that it started. None looks after its parent.
ENGINE = "import subprocess, time; subprocess.Popen(['sleep', '600']); print('started', flush=True); time.sleep(600)"
FORKSERVER = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {ENGINE!r}]); time.sleep(600)"


def actor_class() -> type:
    """Defined in a function, so that it travels by value."""

    class Actor:
        def start(self) -> tuple[int, int, list[int]]:
            """The pids of this process, of its reaper, and of all that it started besides."""
            import os
            import subprocess
            import sys

            import psutil

            from rayllm_batch.engine.reaper import Reaper

            self.reaper = Reaper()
            self.started = subprocess.Popen([sys.executable, "-c", FORKSERVER], stdout=subprocess.PIPE)
            self.started.stdout.readline()
            time.sleep(1)  # the reaper looks three times a second
            return os.getpid(), self.reaper.pid, [child.pid for child in psutil.Process().children(recursive=True)]

    return Actor


@pytest.mark.ray
@pytest.mark.parametrize("how", ["ray.kill", "out of scope", "SIGKILL"])
def test_nothing_is_left_of_an_actor(how: str, ray_cluster: Any) -> None:
    actor = ray_cluster.remote(num_cpus=0)(actor_class()).remote()
    own, reaper, others = ray_cluster.get(actor.start.remote())
    assert len(others) >= 3, "the forkserver, the engine, and what that started"
    assert reaper not in others, "Ray kills an actor's children together with it"
    assert all(_is_there(pid) for pid in (own, reaper, *others))
    if how == "ray.kill":
        ray_cluster.kill(actor)
    elif how == "SIGKILL":
        os.kill(own, signal.SIGKILL)
    del actor
    deadline = time.monotonic() + 20
    while _is_there(own) and time.monotonic() < deadline:
        time.sleep(0.05)
    _wait_gone([reaper])
    assert not [pid for pid in (own, reaper, *others) if _is_there(pid)], "gone when the reaper is"


def test_a_zombie_is_gone() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    deadline = time.monotonic() + 10
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_there(pid)
    os.waitpid(pid, 0)
    assert not _is_there(pid)
