"""vLLM's own processes on this machine: an engine's core, which the replica spawns or its forkserver forks, and the
worker that the core spawns.

vLLM gives them titles that begin with VLLM::, but not always. setproctitle looks for the command line below the first
variable of the environment and gives up, silently, where that one has been set anew since the process began. Ray hands
its workers their environment in an order that differs from run to run, and vLLM's import sets some variables: where
one of them was in the environment already (this process has imported vLLM) and comes first, there are no titles.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil

SPAWNED = "multiprocessing.spawn import spawn_main"
FORKSERVER = "multiprocessing.forkserver import main"  # what it forks has its command line


def title(process: psutil.Process) -> str:
    """The command line, which a process may replace; "" of one that has ended."""
    try:
        return " ".join(process.cmdline()).strip("\0 ")
    except psutil.Error:
        return ""


def is_engine(process: psutil.Process) -> bool:
    """Also without its title; Ray's dashboard is what else spawns and forks in these ways."""
    said = title(process)
    if SPAWNED not in said and FORKSERVER not in said:
        return said.startswith("VLLM::")
    try:
        parent = process.parent()
    except psutil.Error:
        return False
    if parent is None:
        return False
    if SPAWNED in said:
        return "dashboard" not in title(parent)
    return (
        FORKSERVER in title(parent) and "dashboard" not in said
    )  # which has the names of the modules that are imported


def left_after(seconds: float, engines: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that are still there after that time; returns at once when none is."""
    deadline = time.monotonic() + seconds
    while (left := [process for process in engines if is_engine(process)]) and time.monotonic() < deadline:
        time.sleep(0.3)
    return left


def family(pid: int) -> list[psutil.Process]:
    """A process's descendants: Ray's processes, their workers, and the engines that these started."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def engines_below(pid: int) -> list[psutil.Process]:
    """The engines among them: other tests, which run at the same time, have their own."""
    return [process for process in family(pid) if is_engine(process)]
