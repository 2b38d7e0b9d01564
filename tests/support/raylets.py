"""A cluster of several Ray nodes on this machine, each with folders, an object store and an address of its own.

Each node runs in a mount namespace, in which folders are hidden from it: always those of this repository, as on a machine that
was never told of it. To make one takes root, or the right to make user namespaces; without it nothing is hidden.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
OURS = [
    ROOT / name for name in ("rayllm_batch", "bench", "tests", "examples", "util", "assets", "configs")
]  # not a .venv
STORE_BYTES = 100 << 20
PR_SET_PDEATHSIG = 1
START_S, TRIES = 150.0, 3  # Ray itself gives a node 30 s, which a busy machine exceeds
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]


def can_hide() -> bool:
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


class Node:
    """process: `ray start --block`, which ends with its raylet, and ends the rest of the node with it."""

    def __init__(self, name: str, address: str, process: subprocess.Popen, log: Path) -> None:
        self.name, self.address, self.process, self.log = name, address, process, log
        self._family: list[psutil.Process] = []

    def family(self) -> list[psutil.Process]:
        """All processes that the node has or had, as far as was seen."""
        try:
            self._family += psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            pass
        self._family = [process for process in dict.fromkeys(self._family) if process.is_running()]
        return self._family

    @property
    def raylet(self) -> psutil.Process:
        return next(process for process in self.family() if _title(process).split(" ")[0].endswith("raylet/raylet"))

    def workers(self, title: str) -> list[psutil.Process]:
        return [process for process in self.family() if title in _title(process)]

    def kill(self, good_bye_s: float | None = None) -> None:
        """The machine goes. good_bye_s: between SIGTERM to its raylet, as spot machines send it, and the end; None: no word."""
        raylet, family = self.raylet, self.family()
        if good_bye_s is not None:
            raylet.terminate()
            psutil.wait_procs([raylet], timeout=good_bye_s)
        for process in dict.fromkeys([raylet, *family, *self.family(), psutil.Process(self.process.pid)]):
            _kill(process)
        self.process.wait()

    def close(self) -> None:
        """Ended without ado; of a node that has gone, what it left behind."""
        for process in self.family():
            _kill(process)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for process in self.family():
            _kill(process)


class Raylets:
    """The nodes, while the context is open. folder: with a short path, since Ray makes sockets in it.

    token: that a driver and each node need; None for a cluster that asks for none.
    """

    def __init__(self, folder: Path, token: str | None = None) -> None:
        self.folder = folder
        self.address = _free_address()
        self.nodes: dict[str, Node] = {}
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
        elsewhere = [
            entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and Path(entry) != ROOT
        ]
        self.env["PYTHONPATH"] = os.pathsep.join(elsewhere)
        self.env |= (
            {"RAY_AUTH_MODE": "disabled"} if token is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        )
        self.env |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}

    def __enter__(self) -> Raylets:
        return self

    def __exit__(self, *_: Any) -> None:
        for node in reversed(self.nodes.values()):  # the head, which the others would miss, last
            node.close()

    def add(
        self,
        name: str,
        cpus: float = 1,
        gpus: int = 0,
        *,
        hidden: Sequence[Path] = (),
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
        within_s: float = START_S,
    ) -> Node:
        """Start a node, the first as the head; returns when the cluster knows it. hidden: folders that are empty there.

        gpus: that Ray counts, and nobody has.
        Raises RuntimeError with what Ray said.
        """
        for _ in range(TRIES):
            node = self._start(
                name, [f"--num-cpus={cpus:g}", f"--num-gpus={gpus}"], [*OURS, *hidden], python, env or {}
            )

            def started(node: Node = node) -> bool:
                node.family()  # what it has now is ended with it, also if `ray start` is gone by then
                return "Ray runtime started" in _read(node.log)

            try:
                wait_for(f"node {name}", started, within_s, node.process)
                return node
            except RuntimeError as error:
                node.close()
                if "timed out during startup" not in (said := _read(node.log)):
                    logs = [self.folder / name / f"session_latest/logs/{part}.out" for part in ("gcs_server", "raylet")]
                    said += "".join(f"\n{log.name}: {_read(log)[-1500:]}" for log in logs if log.is_file())
                    raise RuntimeError(f"{error}: {said[-5000:]}") from None
                del self.nodes[name]  # else the next try would not be the head
                if not self.nodes:
                    self.address = _free_address()
        raise RuntimeError(f"node {name} did not start: {said[-2000:]}")

    def _start(self, name: str, has: list[str], hidden: Sequence[Path], python: str, env: Mapping[str, str]) -> Node:
        place = self.folder / name
        (place / "cwd").mkdir(parents=True, exist_ok=True)
        host = 2 if not self.nodes else max(int(node.address.rpartition(".")[2]) for node in self.nodes.values()) + 1
        own = ["--head", f"--port={self.address.rpartition(':')[2]}", "--include-dashboard=false"]
        command = [python, "-m", "ray.scripts.scripts", "start", *(own if host == 2 else [f"--address={self.address}"])]
        command += [f"--node-ip-address=127.0.0.{host}", f"--node-name={name}", *has]
        command += [f"--object-store-memory={STORE_BYTES}", f"--temp-dir={place}", "--dashboard-agent-listen-port=0"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats", "--block"]
        hide = [f"mount -t tmpfs tmpfs {shlex.quote(str(folder))}" for folder in hidden] if can_hide() else []
        log = place / "said"
        with log.open("w") as file:
            process = subprocess.Popen(
                [*(UNSHARE if hide else ()), "sh", "-c", " && ".join([*hide, f"exec {shlex.join(command)}"])],
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                cwd=place / "cwd",
                env={**self.env, "TMPDIR": str(place), "RAY_TMPDIR": str(place), **env},
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 (no threads here)
            )
        node = self.nodes[name] = Node(name, f"127.0.0.{host}", process, log)
        return node

    def driver(self, command: Sequence[str], log: Path, **env: str) -> subprocess.Popen:
        """A process that finds the cluster, on the head's node unless it asks for another. It sees all folders."""
        with log.open("a") as file:
            return subprocess.Popen(
                command,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**self.env, "PYTHONPATH": f"{ROOT}:{self.env['PYTHONPATH']}", "RAY_ADDRESS": self.address, **env},
            )


def _free_address() -> str:
    """For a head: of no other, nor of one that is about to end."""
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        return f"127.0.0.2:{free.getsockname()[1]}"


def _end_with_parent() -> None:
    """SIGTERM, on which `ray start --block` ends its node, when whoever starts it dies without a word."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def wait_for(what: str, happened: Callable[[], Any], seconds: float, process: subprocess.Popen) -> Any:
    """What `happened` returns once it is true. RuntimeError where the process ends before, or it takes too long."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        if process.poll() is not None:
            raise RuntimeError(f"the process ended with {process.poll()} before {what}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds:g} s for {what}")
        time.sleep(0.2)
    return found


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        pass
