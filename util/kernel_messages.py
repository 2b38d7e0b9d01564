"""Widget messages for a cell that is still running.

A kernel reads the messages of its shell channel between cells, so a click reaches Python only when the cell has
ended. Here the messages of a few widgets are taken out where the kernel receives them, and handled in the waiting
cell; every other message takes its usual way, in its usual order. Cells that "Run All" has queued are not touched.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from typing import Any

START_SECONDS = 5.0


def can_read_messages(kernel: Any) -> bool:
    """Whether this is a kernel that `WidgetMessages` knows: ipykernel 6 or 7."""
    return _receives_in_thread(kernel) or hasattr(kernel, "schedule_dispatch")


def _receives_in_thread(kernel: Any) -> bool:
    # ipykernel 7 receives in a thread of its own, 6 in the main thread's event loop
    return getattr(kernel, "shell_channel_thread", None) is not None


class WidgetMessages:
    """The messages of the widgets with these `ids`, from `with` to its end; `handle` runs their callbacks."""

    def __init__(self, kernel: Any, ids: set[str]) -> None:
        self._kernel, self._ids = kernel, ids
        self._stream, self._session = kernel.shell_stream, kernel.session
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threaded = _receives_in_thread(kernel)
        if self._threaded:
            self._usual = kernel.shell_channel_thread_main
        else:
            self._usual = functools.partial(kernel.schedule_dispatch, kernel.dispatch_shell)

    def __enter__(self) -> WidgetMessages:
        self._receive_with(self._sort_async if self._threaded else self._sort)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._receive_with(self._usual)

    def handle(self, seconds: float) -> bool:
        """Run the callbacks of what arrives within `seconds`, of one message at least if any does."""
        handled = False
        deadline = time.monotonic() + seconds
        while not handled and (left := deadline - time.monotonic()) > 0:
            try:
                if not self._threaded:
                    self._stream.flush()
                message = self._inbox.get(timeout=left if self._threaded else 0.02)
            except queue.Empty:
                continue
            self._dispatch(message)
            handled = True
        return handled

    def _receive_with(self, callback: Any) -> None:
        if not self._threaded:
            self._stream.on_recv(callback, copy=False)
            return
        done = threading.Event()

        def switch() -> None:  # a stream belongs to the thread of its event loop
            self._stream.on_recv(callback, copy=False)
            done.set()

        self._kernel.shell_channel_thread.io_loop.add_callback(switch)
        done.wait(START_SECONDS)

    async def _sort_async(self, frames: Any) -> None:
        if not self._take(frames):
            await self._usual(frames)

    def _sort(self, frames: Any) -> None:
        if not self._take(frames):
            self._usual(frames)

    def _take(self, frames: Any) -> bool:
        try:
            # identities | signature, header, parent header, metadata, content, buffers
            parts = self._session.feed_identities(frames, copy=False)[1]
            if self._session.unpack(parts[1].bytes)["msg_type"] != "comm_msg":
                return False
            ours = self._session.unpack(parts[4].bytes)["comm_id"] in self._ids
        except Exception:  # not for here to judge
            return False
        if ours:
            self._inbox.put(frames)
        return ours

    def _dispatch(self, frames: Any) -> None:
        identities, parts = self._session.feed_identities(frames, copy=False)
        message = self._session.deserialize(parts, copy=False)
        self._publish("busy", message)
        try:
            self._kernel.shell_handlers["comm_msg"](self._stream, identities, message)
        finally:
            self._publish("idle", message)  # without it the widget's next change is held back
            self._publish("busy", self._kernel.get_parent("shell"))  # the cell's state, which that one hid

    def _publish(self, state: str, message: Any) -> None:
        self._session.send(self._kernel.iopub_socket, "status", {"execution_state": state}, parent=message)
