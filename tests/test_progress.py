"""The line that a person watches while a run goes on."""

from __future__ import annotations

import io
from typing import Any

from rayllm_batch.progress import Progress, line

READY = {
    "state": "ready", "start_s": 41.6, "settings": {"max_num_seqs": 128, "max_model_len": 8192},
    "rows": 1200, "failed": 0, "output_tokens": 30_000, "engine_s": 20.0,
    "running": 48.0, "waiting": 12.0, "kv_cache_usage": 0.374,
}
STARTING = {"node": "10.0.0.1", "pid": 1}


def text(*replicas: dict[str, Any], of: int = 1, total: int | None = 5000, elapsed: float = 7.4) -> str:
    return line({"replicas": dict(enumerate(replicas)), "failure": None}, of, total, elapsed)


def test_before_any_replica() -> None:
    assert text(of=2) == "preparing rows and 2 replica(s) ... 7 s"


def test_engines_start() -> None:
    assert text(STARTING, of=2) == "starting engine 1 of 2 ... 7 s"


def test_generating() -> None:
    assert text(READY) == (
        "generating: 1,200 of 5,000 rows, 1,500 output tokens/s, 48 running, 12 waiting, KV cache 37%"
    )


def test_generating_an_unknown_number_of_rows() -> None:
    assert text(READY, total=None).startswith("generating: 1,200 rows, ")


def test_failures_are_counted() -> None:
    assert "1,200 of 5,000 rows, 1,003 failed, " in text({**READY, "failed": 1003})


def test_ready_and_nothing_done_yet() -> None:
    shown = text({"state": "ready", "start_s": 1.0})
    assert shown == "generating: 0 of 5,000 rows, 0 running, 0 waiting, KV cache 0%"


def test_several_replicas_are_added_up() -> None:
    shown = text(READY, {**READY, "rows": 100, "engine_s": 10.0, "kv_cache_usage": 0.9, "running": 2}, of=2)
    assert "1,300 of 5,000 rows" in shown and "3,000 output tokens/s" in shown, "over the time in which any was busy"
    assert "50 running, 24 waiting, KV cache 90%" in shown and "replicas ready" not in shown


def test_some_replicas_still_start() -> None:
    assert text(READY, STARTING, of=3).endswith(", 1 of 3 replicas ready")


def test_rows_of_a_replica_that_died_still_count() -> None:
    died = {**READY, "state": "died", "rows": 50, "running": 7}
    assert "1,250 of 5,000 rows" in text(READY, died) and "48 running" in text(READY, died)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_by(stream: io.StringIO, *lines: str) -> str:
    progress = Progress(monitor=None, num_replicas=1, total_rows=None, stream=stream)
    for text in lines:
        progress._show_line(text)
    return stream.getvalue()


def test_a_terminal_gets_one_line_that_is_written_over() -> None:
    written = shown_by(Terminal(), "generating: 10 rows", "done", "done")
    assert written == "generating: 10 rows" + "\r" + " " * 19 + "\r" + "done"


def test_a_log_file_gets_a_line_now_and_then() -> None:
    assert shown_by(io.StringIO(), "one", "two", "three") == "one\n"


def test_the_resolved_settings_are_shown_once() -> None:
    stream = io.StringIO()
    progress = Progress(monitor=None, num_replicas=2, total_rows=None, stream=stream)
    for replicas in ({"a": STARTING}, {"a": STARTING, "b": READY}, {"a": READY, "b": READY}):
        progress._show_settings({"replicas": replicas})
    assert stream.getvalue() == "Engine ready in 42 s: max_num_seqs=128, max_model_len=8192\n"
