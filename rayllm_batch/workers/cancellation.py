"""Ends the process of a Ray task whose run is over, while the user's code holds it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

GRACE_S = 2.0  # for code that ends by itself


@contextmanager
def obeyed() -> Iterator[None]:
    """While this is open, a task that Ray cancels ends.

    Ray raises KeyboardInterrupt between two steps of Python, without a signal: code that sleeps, or waits for a network
    or a lock, never sees it, and code that catches everything goes on. Such a task would hold its CPU, and the next
    run, with parse_row mended, would wait for it. Python writes to the wakeup file descriptor at the same moment.

    Where the code within has caught the KeyboardInterrupt, as an error of its row, it is raised at the end: a task that
    went on would hand over what it made, and wait for ever for a run that is over to take it.
    """
    if threading.current_thread() is not threading.main_thread():  # Ray's tasks run there; only there can it be set
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    over, told = threading.Event(), threading.Event()
    listener = threading.Thread(target=_listen, args=(read, over, told), name="rayllm-cancellation", daemon=True)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    listener.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        os.close(write)
        listener.join()
        os.close(read)
    if told.is_set():
        raise KeyboardInterrupt


def _listen(read: int, over: threading.Event, told: threading.Event) -> None:
    while number := os.read(read, 1):
        if number[0] != signal.SIGINT:
            continue
        told.set()
        if not over.wait(GRACE_S):
            os._exit(1)
