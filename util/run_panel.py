"""A run's progress in JupyterLab as widgets: they live in the kernel, so a page that is opened later shows them too."""

from __future__ import annotations

import inspect
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

from rayllm_batch.display import in_jupyterlab, ipython_shell
from rayllm_batch.show import status_view

log = logging.getLogger("rayllm_batch")

VIEW = "application/vnd.jupyter.widget-view+json"
CONTROL = "jupyter.widget.control"
ASKED = ("kernel_info_request", "comm_info_request", "history_request")
NOTE = "The page can be closed, once the notebook is saved: this goes on, and is here when it is opened again."


class RunPanel:
    """The status, and a button that does what Ctrl-C does. From its making to `close`, while a cell runs, the kernel
    answers what a page asks about widgets, which would else wait for the cell's end.
    """

    def __init__(self, kernel: Any) -> None:
        import ipywidgets

        self._kernel, self._cell = kernel, kernel.get_parent("shell")
        self._lock, self._closed = threading.Lock(), False
        self._text = ipywidgets.HTML()
        self._button = ipywidgets.Button(description="Stop", icon="stop", tooltip="As Ctrl-C does. " + NOTE)
        self._button.on_click(lambda _: self._stop())
        self._box = ipywidgets.VBox([self._text, self._button])
        self._ours = {widget.model_id for widget in (self._text, self._button, self._box)}
        self._receive_with(self._sort)

    @property
    def bundle(self) -> dict[str, Any]:
        return {VIEW: {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}}

    def show(self, html: str) -> None:
        self._text.value = html

    def close(self) -> None:
        """The text stays, for a page that is opened later."""
        with self._lock:  # a `busy` that came after the cell's end would stay
            self._closed = True
        self._box.children = (self._text,)
        self._button.close()
        self._receive_with(self._kernel.shell_channel_thread_main)

    def _stop(self) -> None:
        self._button.disabled, self._button.description = True, "Stopping ..."
        # To this process alone, whose children an interrupt by the page's own button may reach too.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def _receive_with(self, callback: Any) -> None:
        kernel = self._kernel  # a stream belongs to the thread of its event loop
        kernel.shell_channel_thread.io_loop.add_callback(lambda: kernel.shell_stream.on_recv(callback, copy=False))

    async def _sort(self, frames: Any) -> None:
        kernel = self._kernel
        if not self._is_for_now(frames):
            await kernel.shell_channel_thread_main(frames)
            return
        idents, parts = kernel.session.feed_identities(frames, copy=False)
        message = kernel.session.deserialize(parts, copy=False)
        self._status("busy", message)
        try:
            handled = kernel.shell_handlers[message["header"]["msg_type"]](kernel.shell_stream, idents, message)
            if inspect.isawaitable(handled):
                await handled
        finally:
            self._status("idle", message)
            with self._lock:
                if not self._closed:
                    self._status("busy", self._cell)  # its state, which that one hid

    def _is_for_now(self, frames: Any) -> bool:
        try:
            session = self._kernel.session  # which would take a message that was deserialized twice for a replay
            # identities | signature, header, parent header, metadata, content, buffers
            parts = session.feed_identities(frames, copy=False)[1]
            header, content = session.unpack(parts[1].bytes), session.unpack(parts[4].bytes)
            return self._asks_for_widgets(header, content)
        except Exception:  # not for here to judge
            return False

    def _asks_for_widgets(self, header: dict[str, Any], content: dict[str, Any]) -> bool:
        # Also those that JupyterLab sends to a subshell: ipykernel 7.4 brings the answer to where the widget last changed.
        kind, comm = header["msg_type"], content.get("comm_id")
        if kind in ASKED:
            return True
        if kind == "comm_open" and content.get("target_name") == CONTROL:
            self._ours.add(str(comm))
            return True
        asks = kind == "comm_msg" and content.get("data", {}).get("method") in ("request_state", "request_states")
        return kind in ("comm_msg", "comm_close") and (comm in self._ours or asks)

    def _status(self, state: str, message: Any) -> None:
        kernel = self._kernel
        kernel.session.send(kernel.iopub_socket, "status", {"execution_state": state}, parent=message)


@contextmanager
def watched() -> Iterator[None]:
    """Around batch.run(): in JupyterLab its progress has a button that stops it, and lives on in pages that are opened
    later. Changes nothing elsewhere, without ipywidgets, or in a kernel before ipykernel 7.
    """
    before, status_view.make_panel = status_view.make_panel, _made
    try:
        yield
    finally:
        status_view.make_panel = before


def _made() -> Optional[RunPanel]:
    kernel = getattr(ipython_shell(), "kernel", None)
    knows = getattr(kernel, "shell_channel_thread", None) is not None and hasattr(kernel, "shell_channel_thread_main")
    try:
        return RunPanel(kernel) if knows and in_jupyterlab() else None
    except Exception as error:  # of another ipywidgets: the run is shown without
        log.warning("The run cannot be watched again from another page: %s: %s.", type(error).__name__, error)
        return None
