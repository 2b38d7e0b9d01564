"""What the user sees while a run goes on: one line, and the engine's resolved settings once."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Optional, TextIO

POLL_S = 1.0
LINE_EVERY_S = 20.0  # where a line cannot be written over: a log file, a CI


class Progress:
    """Polls the run's monitor from a thread. Use it as a context manager around the run."""

    def __init__(self, monitor: Any, num_replicas: int, total_rows: Optional[int], stream: Optional[TextIO] = None) -> None:
        self._monitor, self._num_replicas, self._total_rows = monitor, num_replicas, total_rows
        self._stream = stream or sys.stdout
        self._rewrites = self._stream.isatty()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rayllm-progress", daemon=True)
        self._began = time.time()
        self._settings_shown = False
        self._last_line, self._last_at, self._width = "", 0.0, 0

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        if self._rewrites and self._width:
            self._stream.write("\n")

    def _watch(self) -> None:
        import ray

        while not self._stop.wait(POLL_S):
            try:
                snapshot = ray.get(self._monitor.snapshot.remote(), timeout=5)
            except Exception:  # the run's end is not the progress line's to report
                continue
            self._show_settings(snapshot)
            self._show_line(line(snapshot, self._num_replicas, self._total_rows, time.time() - self._began))

    def _show_settings(self, snapshot: dict[str, Any]) -> None:
        if self._settings_shown:
            return
        for replica in snapshot["replicas"].values():
            if settings := replica.get("settings"):
                self._settings_shown = True
                text = ", ".join(f"{key}={value}" for key, value in settings.items())
                self._write(f"Engine ready in {replica['start_s']:.0f} s: {text}", final=True)
                return

    def _show_line(self, text: str) -> None:
        now = time.time()
        if text == self._last_line or (not self._rewrites and now - self._last_at < LINE_EVERY_S):
            return
        self._last_line, self._last_at = text, now
        self._write(text, final=not self._rewrites)

    def _write(self, text: str, final: bool) -> None:
        clear = "\r" + " " * self._width + "\r" if self._width else ""
        self._stream.write(clear + text + ("\n" if final else ""))
        self._stream.flush()
        self._width = 0 if final else len(text)


def line(snapshot: dict[str, Any], num_replicas: int, total_rows: Optional[int], elapsed_s: float) -> str:
    """`generating: 120 of 500 rows, 3 failed, 1,234 output tokens/s, 48 running, 12 waiting, KV cache 37%`."""
    replicas = list(snapshot["replicas"].values())
    ready = [replica for replica in replicas if replica.get("state") == "ready"]
    if not ready:
        if not replicas:
            return f"preparing rows and {num_replicas} replica(s) ... {elapsed_s:.0f} s"
        return f"starting engine {len(replicas)} of {num_replicas} ... {elapsed_s:.0f} s"
    rows, failed, tokens = (sum(r.get(key, 0) for r in replicas) for key in ("rows", "failed", "output_tokens"))
    busy = max(r.get("engine_s", 0.0) for r in replicas)
    parts = [f"generating: {rows:,}{f' of {total_rows:,}' if total_rows else ''} rows"]
    if failed:
        parts.append(f"{failed:,} failed")
    if busy > 0:
        parts.append(f"{tokens / busy:,.0f} output tokens/s")
    parts.append(f"{sum(r.get('running', 0) for r in ready):.0f} running")
    parts.append(f"{sum(r.get('waiting', 0) for r in ready):.0f} waiting")
    parts.append(f"KV cache {100 * max(r.get('kv_cache_usage', 0.0) for r in ready):.0f}%")
    if len(ready) < num_replicas:
        parts.append(f"{len(ready)} of {num_replicas} replicas ready")
    return ", ".join(parts)
