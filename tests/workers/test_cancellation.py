"""A task that Ray cancels ends, whatever the user's code does."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

from rayllm_batch.workers import cancellation

CANCELLED = """
import _thread, signal, socket, threading, time
from rayllm_batch.workers import cancellation
signal.signal(signal.SIGINT, signal.default_int_handler)
def stubborn():
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
def once_stubborn():
    try:
        time.sleep(0.6)
    except BaseException:
        pass
def waiting():
    ours, theirs = socket.socketpair()
    ours.recv(1)
threading.Timer(0.3, _thread.interrupt_main).start()  # as Ray does it
with cancellation.obeyed():
    {code}
print("went on")
"""


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        ("time.sleep(60)", True),
        ("stubborn()", True),
        ("waiting()", True),
        ("threading.Lock().acquire() and stubborn()", True),
        ("pass", False),
        ("time.sleep(0.6)", False),
    ],
)
def test_code_that_is_cancelled(code: str, ends: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CANCELLED.format(code=code)], capture_output=True, text=True, timeout=30, check=False
    )
    if ends:
        assert done.returncode == 1 and "went on" not in done.stdout
    else:
        assert "went on" in done.stdout or "KeyboardInterrupt" in done.stderr


def test_code_that_takes_it_for_its_rows_error_does_not_go_on() -> None:
    command = [sys.executable, "-c", CANCELLED.format(code="once_stubborn()")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "KeyboardInterrupt" in done.stderr and "went on" not in done.stdout and done.returncode


def test_outside_the_main_thread_and_inside_another() -> None:
    seen: list[Any] = []

    def work() -> None:
        with cancellation.obeyed():
            seen.append(threading.active_count())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before = threading.active_count()
    with cancellation.obeyed(), cancellation.obeyed():
        work()
    assert len(seen) == 2 and threading.active_count() == before
