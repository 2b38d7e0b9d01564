"""A driver in a process of its own, to be broken; when the test that broke it fails, all that is known is shown."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from vllm_processes import engines_below, family, title


class Driver:
    """`python -c code` from the repository's root, while the context is open; its output goes to the file `log`."""

    def __init__(self, code: str, log: Path) -> None:
        self._code, self._log = code, log

    def __enter__(self) -> Driver:
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", self._code],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parents[2],
                # As in a terminal: a shell starts background jobs with SIGINT ignored, and their children inherit that.
                # (No threads are at work here.)
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
            )
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:  # pytest shows what a failed test printed
            print(f"--- the driver's processes, its exit code {self.process.poll()}:")
            for process in self.family():
                print(f"{process.pid:8} {title(process)}")
            print(f"--- the driver said:\n{self.said}")
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def family(self) -> list[psutil.Process]:
        return family(self.process.pid)

    def engines(self) -> list[psutil.Process]:
        return engines_below(self.process.pid)

    def wait_for(self, what: str, happened: Callable[[], Any], seconds: float) -> Any:
        """What `happened` returns once it is true. Fails when the driver ends before, or hangs for `seconds`."""
        deadline = time.monotonic() + seconds
        while not (found := happened()):
            assert self.process.poll() is None, f"the driver ended with {self.process.poll()} before {what}"
            assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
            time.sleep(0.3)
        return found
