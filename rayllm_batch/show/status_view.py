"""Where a run's status is shown: a bar in a notebook or a terminal, else a line now and then.

Not tqdm: in a notebook its bar is an ipywidget, of which a saved notebook shows nothing without the widgets' state, and
it knows one count and one rate, where a run has phases, tokens and an engine's load. (A `Panel`'s widgets are replaced
by their last text.)
"""

from __future__ import annotations

import html
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any, Optional, Protocol, TextIO, Union

from rayllm_batch.display import client_answers, in_notebook, ipython_shell
from rayllm_batch.show.status import Status

# Where a line cannot be written over: a log file, a CI. Between two go 20 s, and in a long run half of its time so far,
# an hour at most: that of an hour has 14, of eight 21, of a day 37.
LINE_EVERY_S, SHARE, LONGEST_S = 20.0, 0.5, 3600.0
WIDE, MEDIUM = 100, 60  # columns of a terminal in which a bar of 20, or 10, leaves room for words


class Panel(Protocol):
    """Widgets of a notebook that show a run's status too."""

    @property
    def bundle(self) -> dict[str, Any]:
        """Of the output that shows them, by MIME type."""

    def show(self, html: str) -> None: ...

    def close(self) -> None:
        """Nothing changes afterwards."""


# Of the runs that begin now; the package itself has none.
make_panel: Callable[[], Optional[Panel]] = lambda: None  # noqa: E731


class Lines:
    """A line now and then.

    As of each view: `say` shows a line that stays, above the status, which changes; nothing changes after `close`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._last, self._began = stream, ("", float("-inf")), time.monotonic()

    def show(self, status: Status) -> None:
        text, (last_text, last_s) = status.text(), self._last
        now = time.monotonic()
        wait_s = min(max(LINE_EVERY_S, SHARE * (last_s - self._began)), LONGEST_S)
        if text != last_text and now - last_s >= wait_s:
            self._last = (text, now)
            self.say(text)

    def say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self, final: Optional[Status]) -> None:
        pass  # the run's own last line says it


class Terminal:
    """One line, written over, never wider than the terminal: a wrapped one could not be."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._text = stream, ""

    def show(self, status: Status) -> None:
        self._write(self._with_bar(status, self._columns() - 1))

    def say(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}\n")
        self._text, text = "", self._text
        self._write(text[: self._columns() - 1])

    def close(self, final: Optional[Status]) -> None:
        if final is not None:
            self._write(final.text(self._columns() - 1))
        if self._text:
            self._stream.write("\n")
            self._stream.flush()

    def _write(self, text: str) -> None:
        if text != self._text:
            self._stream.write(f"\r{text}\x1b[K")  # what is left of a longer one is cleared
            self._text = text
        self._stream.flush()

    def _columns(self) -> int:
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = shutil.get_terminal_size().columns
        return columns or 80  # a terminal that does not know its size says 0

    @staticmethod
    def _with_bar(status: Status, width: int) -> str:
        cells = 20 if width >= WIDE else 10 if width >= MEDIUM else 0
        if not status.total or not status.parts or not cells:
            return status.text(width)
        full = cells * min(status.rows, status.total) // status.total
        return status.text(width, f"{status.phase} [{'#' * full}{'.' * (cells - full)}]")


class Notebook:
    """One output of the cell, changed in place. What stays in the saved notebook is its last state, as text.

    panel: shows the same in a page that is opened later.
    """

    def __init__(self, panel: Optional[Panel] = None) -> None:
        self._panel = panel
        self._display = sys.modules["IPython"].display
        self._id = f"rayllm_batch-{uuid.uuid4().hex}"
        self._said: list[str] = []
        self._status: Optional[Status] = None
        self._last: dict[str, str] = {}
        # Made here, in the thread of the cell, so that it is this cell's. A change of it finds it by its id.
        self._publish(self._display.display, bar=True)

    def show(self, status: Status) -> None:
        self._status = status
        self._publish(self._display.update_display, bar=True)

    def say(self, text: str) -> None:
        self._said.append(text)  # a line printed would land below
        self._publish(self._display.update_display, bar=True)

    def close(self, final: Optional[Status]) -> None:
        self._status = final or self._status
        self._publish(self._display.update_display, bar=False)
        if self._panel:
            self._panel.close()

    def _publish(self, how: Any, bar: bool) -> None:
        now = [self._status.text()] if self._status else []
        text = "\n".join(self._said + now)
        as_html = self._html(now[0] if now else "") if bar else _lines(text)
        shown = {"text/plain": text, "text/html": as_html}
        if shown == self._last:
            return
        self._last = shown
        if self._panel:
            self._panel.show(as_html)
        if not self._panel or not bar:
            how(shown, raw=True, display_id=self._id)
        elif how == self._display.display:
            how({**shown, **self._panel.bundle}, raw=True, display_id=self._id)

    def _html(self, now: str) -> str:
        known, status = "", self._status
        if status and status.total and status.parts:
            known = f" value='{min(status.rows, status.total)}' max='{status.total}'"
        return f"{_lines(chr(10).join(self._said))}<div><progress{known}></progress> {html.escape(now)}</div>"


View = Union[Lines, Terminal, Notebook]


def choose_view(only_lines: bool = False) -> View:
    """What suits whoever looks on. only_lines: something else writes to the screen too."""
    if only_lines:
        return Lines(sys.stdout)
    if in_notebook():
        return Notebook(make_panel()) if client_answers(ipython_shell().kernel) else Lines(sys.stdout)
    watched = sys.stdout.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
    return Terminal(sys.stdout) if watched else Lines(sys.stdout)


def _lines(text: str) -> str:
    return f"<pre style='white-space:pre-wrap;margin:0;padding:0'>{html.escape(text)}</pre>" if text else ""
