"""The command line under a real terminal: the bar moves, Ctrl-C stops it and says how to go on."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux")]
ROWS, COLUMNS = 60, 110
WAIT_S = 240.0


class Terminal:
    """A shell in a terminal that nobody sees; its own tmux server."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / "tmux")
        # A terminal of a person: no CI, whose variable would turn the bar into lines.
        env = {key: value for key, value in os.environ.items() if key not in ("CI", "TMUX")}
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", str(COLUMNS), "-y", "50", "env PS1='$ ' sh", env=env)

    def type(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def screen(self) -> str:
        """What stands on it; a line that wrapped is one line again."""
        return self._tmux("capture-pane", "-p", "-J")

    def wait_for(self, pattern: str) -> str:
        """The screen, once it has the pattern."""
        deadline = time.monotonic() + WAIT_S
        while not re.search(pattern, screen := self.screen(), re.MULTILINE):
            assert time.monotonic() < deadline, f"{pattern!r} has not come:\n{screen}"
            time.sleep(0.2)
        return screen

    def close(self) -> None:
        self._tmux("kill-server")

    def _tmux(self, *command: str, env: dict[str, str] | None = None) -> str:
        return subprocess.run(
            ["tmux", "-S", self._socket, *command], check=True, capture_output=True, text=True, env=env
        ).stdout


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path)
    yield made
    made.close()


def test_a_bar_that_moves_and_ctrl_c(terminal: Terminal, tmp_path: Path) -> None:
    config = yaml.safe_load(Path("configs/demo-cpu.yaml").read_text(encoding="utf-8"))
    config.update(llm_engine="echo", model_id=str(Path("assets/demo-model").resolve()))
    config["engine_kwargs"].update(max_model_len=4096, max_num_seqs=8, seconds_per_request=6)
    (tmp_path / "echo.yaml").write_text(yaml.safe_dump(config))
    command = shlex.join(
        [
            sys.executable,
            "-m",
            "rayllm_batch",
            "run",
            "--config",
            str(tmp_path / "echo.yaml"),
            "--workload",
            "rayllm_batch:CNNDailySummary",
            "-w",
            "dataset_file=assets/sample_articles.jsonl",
            "-w",
            f"dataset_fraction={ROWS}",
            "--output",
            str(tmp_path / "out"),
            "--batch-size",
            "1",
        ]
    )
    (tmp_path / "go").write_text(f"clear\n{command}\n")
    terminal.type(f". {tmp_path}/go; echo first exit code: $?", "Enter")
    screen = terminal.wait_for(r"^generating \[#+\.+\] \d+ of 60 rows")  # some are done, not all
    ready, bar = [line for line in screen.splitlines() if line.startswith(("Engine ready", "generating"))]
    assert ready.startswith("Engine ready") and len(bar) < COLUMNS, "the bar is below, one line that is written over"
    deadline = time.monotonic() + WAIT_S
    while not list((tmp_path / "out").glob("part-*.parquet")):  # what the engine has done is written a little later
        assert time.monotonic() < deadline, f"nothing was written:\n{terminal.screen()}"
        time.sleep(0.2)
    terminal.type("C-c")
    screen = terminal.wait_for(r"^first exit code: \d+")
    assert "Run the same again to continue from there." in screen and "The same command continues it." in screen
    assert "exit code: 130" in screen and "Traceback" not in screen
    written = int(re.search(r"^(\d+) rows are in ", screen, re.MULTILINE)[1])
    assert 0 < written < ROWS
