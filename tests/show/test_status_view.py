"""Where the status is shown: written over in a terminal, changed in place in a notebook, now and then in a log."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rayllm_batch.show import status_view
from rayllm_batch.show.status import Status
from rayllm_batch.show.status_view import Lines, Notebook, Terminal, choose_view


def at(rows: int, total: int | None = 200) -> Status:
    parts = ((0, f"{rows} of {total} rows"), (1, f"{rows // 2} min left"), (5, "48 running, 12 waiting, KV cache 37%"))
    return Status("generating", parts, rows, total)


END = "\x04"  # of what a screen has been sent
STARTING = Status("starting engine 1 of 1 ... 7 s")


class Screen:
    """A terminal of `columns`, and what stands on it. A line that wraps becomes two."""

    def __init__(self, columns: int) -> None:
        self.master, tty = pty.openpty()
        fcntl.ioctl(tty, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream, self.columns = os.fdopen(tty, "w"), columns

    def lines(self) -> list[str]:
        written = ""
        self.stream.write(END)
        self.stream.flush()
        while not written.endswith(END):  # what was written arrives a little later, and not always at once
            written += os.read(self.master, 1 << 16).decode()
        written = written.removesuffix(END)
        lines, column = [""], 0
        for char in re.findall(r"\x1b\[K|.|\n|\r", written):
            if char == "\n":
                lines.append("")
            elif char == "\r":
                column = 0
                continue
            elif char == "\x1b[K":
                lines[-1] = lines[-1][:column]
                continue
            else:
                if column == self.columns:
                    lines.append("")
                    column = 0
                lines[-1] = lines[-1][:column] + char + lines[-1][column + 1 :]
                column += 1
                continue
            column = 0
        return lines

    def close(self) -> None:
        self.stream.close()
        os.close(self.master)


@pytest.fixture
def screen(request: pytest.FixtureRequest) -> Iterator[Screen]:
    made = Screen(getattr(request, "param", 120))
    yield made
    made.close()


def test_a_terminal_has_a_bar_that_is_written_over(screen: Screen) -> None:
    view = Terminal(screen.stream)
    for status in (STARTING, at(199), at(50)):
        view.show(status)
    assert screen.lines() == [
        "generating [#####...............] 50 of 200 rows, 25 min left, 48 running, 12 waiting, KV cache 37%"
    ]
    view.show(STARTING)
    view.close(None)
    assert screen.lines() == ["starting engine 1 of 1 ... 7 s", ""]


def test_lines_that_stay_are_above_the_bar(screen: Screen) -> None:
    view = Terminal(screen.stream)
    view.say("Engine logs: here")
    view.show(STARTING)
    view.say("Engine ready")
    view.show(at(100))
    view.close(Status("done in 9 s", ((0, "200 of 200 rows"),), 200, 200))
    assert screen.lines() == ["Engine logs: here", "Engine ready", "done in 9 s: 200 of 200 rows", ""]


@pytest.mark.parametrize("screen", [20, 59, 60, 61, 99, 100, 101], indirect=True)
def test_the_line_never_wraps(screen: Screen) -> None:
    view = Terminal(screen.stream)
    for rows in (0, 1, 150, 200):
        view.show(at(rows))
    (line,) = screen.lines()
    assert line.startswith("generating") and len(line) < screen.columns
    assert ("[" in line) == (screen.columns > 60)


def test_a_narrower_terminal_is_noticed(screen: Screen) -> None:
    view = Terminal(screen.stream)
    view.show(at(50))
    fcntl.ioctl(screen.stream.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", 24, 30, 0, 0))
    view.show(at(51))
    assert screen.lines() == ["generating: 51 of 200 rows"]


def test_without_a_total_there_is_no_bar(screen: Screen) -> None:
    Terminal(screen.stream).show(at(50, total=None))
    assert screen.lines()[0].startswith("generating: 50 of None rows")


def test_a_log_gets_a_line_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(status_view.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    view = Lines(stream)
    for rows in range(61):
        view.show(at(rows))
        now[0] += 1
    view.say("Engine ready")
    now[0] += 100
    view.show(at(60))  # nothing moved
    view.close(at(200))
    written = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in written] == [
        "generating: 0 of 200 rows",
        "generating: 20 of 200 rows",
        "generating: 40 of 200 rows",
        "generating: 60 of 200 rows",
        "Engine ready",
    ]


@pytest.mark.parametrize("hours, most", [(1, 14), (8, 21)])
def test_a_log_of_a_long_run_is_short(monkeypatch: pytest.MonkeyPatch, hours: int, most: int) -> None:
    now, stream = [100.0], io.StringIO()
    monkeypatch.setattr(status_view.time, "monotonic", lambda: now[0])
    view = Lines(stream)
    for second in range(hours * 3600):
        view.show(at(second, 10**6))
        now[0] += 1
    assert 12 <= len(stream.getvalue().splitlines()) <= most


class FakeIPython:
    """As much of IPython as the display needs; keeps what the cell shows."""

    def __init__(self, answers: bool = True) -> None:
        self.outputs: dict[str, dict[str, str]] = {}
        self.messages: list[str] = []
        request = {"content": {"allow_stdin": answers}}
        self.shell = SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda channel: request))
        self.display = self

    def get_ipython(self) -> Any:
        return self.shell

    def __call__(self, data: dict[str, str], *, raw: bool, display_id: str) -> None:
        assert raw and display_id not in self.outputs
        self._show("display", data, display_id)

    def update_display(self, data: dict[str, str], *, raw: bool, display_id: str) -> None:
        assert raw and display_id in self.outputs
        self._show("update", data, display_id)

    def _show(self, kind: str, data: dict[str, str], display_id: str) -> None:
        self.outputs[display_id] = dict(data)
        self.messages.append(kind)


@pytest.fixture
def ipython(monkeypatch: pytest.MonkeyPatch) -> FakeIPython:
    made = FakeIPython()
    made.display = SimpleNamespace(display=made, update_display=made.update_display)
    monkeypatch.setitem(sys.modules, "IPython", made)
    return made


def test_a_notebook_has_one_output_that_changes_and_ends_as_text(ipython: FakeIPython) -> None:
    view = choose_view()
    assert isinstance(view, Notebook) and ipython.messages == ["display"], (
        "it is the cell's before any thread changes it"
    )
    view.show(STARTING)
    (shown,) = ipython.outputs.values()
    assert "<progress></progress> starting engine 1 of 1 ... 7 s" in shown["text/html"]
    view.say("Engine ready in 42 s: <b>")
    view.show(at(50))
    view.show(at(50))
    (shown,) = ipython.outputs.values()
    assert "<progress value='50' max='200'></progress> generating: 50 of 200 rows, 25 min left" in shown["text/html"]
    assert shown["text/html"].index("Engine ready in 42 s: &lt;b&gt;") < shown["text/html"].index("<progress")
    assert ipython.messages == ["display", "update", "update", "update"], "what has not changed is not sent"
    view.close(Status("done in 9 s", ((0, "200 of 200 rows"),), 200, 200))
    (shown,) = ipython.outputs.values()
    assert shown["text/plain"] == "Engine ready in 42 s: <b>\ndone in 9 s: 200 of 200 rows"
    assert "progress" not in shown["text/html"] and "done in 9 s: 200 of 200 rows" in shown["text/html"]


def test_an_interrupted_run_leaves_how_far_it_was(ipython: FakeIPython) -> None:
    view = choose_view()
    view.show(at(50))
    view.close(None)
    (shown,) = ipython.outputs.values()
    assert shown["text/plain"] == at(50).text() and "<progress" not in shown["text/html"]


def test_a_notebook_that_nobody_watches_gets_lines(ipython: FakeIPython, capsys: pytest.CaptureFixture[str]) -> None:
    ipython.shell.kernel.get_parent = lambda channel: {"content": {"allow_stdin": False}}
    view = choose_view()
    view.show(at(50))
    assert (
        isinstance(view, Lines) and not ipython.messages and capsys.readouterr().out.startswith("generating: 50 of 200")
    )


@pytest.mark.parametrize(
    ("tty", "env", "only_lines", "kind"),
    [
        (True, {"TERM": "xterm"}, False, Terminal),
        (True, {"TERM": "xterm"}, True, Lines),  # verbose
        (True, {"TERM": "dumb"}, False, Lines),
        (True, {"TERM": "xterm", "CI": "true"}, False, Lines),
        (False, {"TERM": "xterm"}, False, Lines),
    ],
)
def test_what_suits_outside_a_notebook(
    monkeypatch: pytest.MonkeyPatch, tty: bool, env: dict[str, str], only_lines: bool, kind: type
) -> None:
    monkeypatch.delenv("CI", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    stream.isatty = lambda: tty  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", stream)
    assert type(choose_view(only_lines)) is kind


def test_verbose_in_a_notebook_is_lines(ipython: FakeIPython) -> None:
    assert isinstance(choose_view(only_lines=True), Lines)
