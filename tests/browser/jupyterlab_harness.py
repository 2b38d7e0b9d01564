"""JupyterLab in headless Chromium: a real server, a real kernel, a real page, for tests and for screenshots.

with JupyterLab(root=folder, home=other_folder) as lab, chromium() as browser:
    with lab.open(browser, "README.ipynb") as notebook:
        notebook.run_cell(0)
        notebook.wait_until_idle()
        print(notebook.text(0))
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
expect.set_options(timeout=30_000)  # milliseconds; the default of 5 s is short for a busy machine

# No news from the network, no dialogs, every cell in the page also when it is out of sight.
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "docmanager-extension/plugin": {"autosave": False},
    "notebook-extension/tracker": {"windowingMode": "none", "recordTiming": False},
}


def chromium_path() -> str | None:
    """The Chromium or Chrome of this machine, if it has one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class JupyterLab:
    """A server on the loopback interface with its own home, which shows the notebooks in `root`."""

    def __init__(
        self,
        root: Path,
        home: Path,
        env: Mapping[str, str] | None = None,
        theme: str = "Light",
        save_widget_state: bool = False,
    ) -> None:
        self.root, self.home = root, home
        self.settings = {
            **SETTINGS,
            "apputils-extension/themes": {"theme": f"JupyterLab {theme}"},
            "../@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": save_widget_state},
        }
        self.env = {**os.environ, **(env or {})}
        self.token = secrets.token_hex(16)

    def __enter__(self) -> JupyterLab:
        self.home.mkdir(parents=True, exist_ok=True)
        for name, value in self.settings.items():
            path = self.home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={self.root}"]
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1"]
        command += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly", "--allow-root"]
        folders = {"CONFIG": "config", "DATA": "data", "RUNTIME": "runtime"}
        env = {**self.env, **{f"JUPYTER_{name}_DIR": str(self.home / folder) for name, folder in folders.items()}}
        env.update(
            HOME=str(self.home),
            IPYTHONDIR=str(self.home / "ipython"),
            JUPYTERLAB_SETTINGS_DIR=str(self.home / "settings"),
            JUPYTERLAB_WORKSPACES_DIR=str(self.home / "workspaces"),
            JUPYTER_TOKEN=self.token,  # not on the command line, which every user of the machine can read
        )
        self.log = self.home / "jupyterlab.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        self._wait_until_up()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.send_signal(signal.SIGTERM)  # ends its kernels too
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _wait_until_up(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/api?token={self.token}", timeout=2).close()
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"JupyterLab did not start:\n{self.log.read_text()[-3000:]}")

    def open(self, browser: Browser, path: str, width: int = 1280, height: int = 900) -> Notebook:
        """Open a notebook of `root` in a new page, and wait until its kernel is ready."""
        # No emulated scheme, which frames would have whatever the theme is.
        view = {"viewport": {"width": width, "height": height}, "device_scale_factor": 2, "color_scheme": "null"}
        page = browser.new_page(**view)
        page.goto(f"{self.url}/lab/tree/{path}?reset&token={self.token}")
        notebook = Notebook(page, self.root / path)
        notebook.command("application:toggle-left-area")  # the file browser
        notebook.wait_until_idle()
        return notebook


class Notebook:
    """An open notebook; cells are counted from 0, those of text included."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page, self.path = page, path
        self.cells = page.locator(".jp-Notebook .jp-Cell")
        expect(self.cells.first).to_be_visible(timeout=60_000)
        page.wait_for_function("window.jupyterapp && window.jupyterapp.shell.currentWidget?.sessionContext")

    def command(self, name: str, **arguments: object) -> None:
        """Run a command of JupyterLab, as its menus and keys do, without waiting for what it starts."""
        self.page.evaluate("([name, args]) => { window.jupyterapp.commands.execute(name, args) }", [name, arguments])

    def run_cell(self, index: int) -> None:
        """Select a cell and press Ctrl+Enter; returns once it has started.

        Shift+Enter, on the last cell, adds an empty one to the notebook.
        """
        cell = self.cells.nth(index)
        if "jp-CodeCell" not in (cell.get_attribute("class") or ""):
            cell.locator(".jp-MarkdownOutput").click(position={"x": 2, "y": 2})  # not on a link
            self.page.keyboard.press("Control+Enter")
            return
        prompt = cell.locator(".jp-InputPrompt")
        before = prompt.inner_text()
        prompt.click()
        self.page.keyboard.press("Control+Enter")
        expect(prompt).not_to_have_text(before)

    def run_all(self) -> None:
        """Run > Run All Cells; returns once the first cell has started."""
        first = self.page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").first
        before = first.inner_text()
        self.command("notebook:run-all-cells")
        expect(first).not_to_have_text(before)

    def interrupt(self) -> None:
        """The stop button."""
        self.command("notebook:interrupt-kernel")

    def save(self) -> dict:
        """Save, and read back what is on the disk."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")
        return json.loads(self.path.read_text())

    def wait_until_idle(self, seconds: float = 60) -> None:
        """Wait until the kernel is ready and no cell runs or waits (`[*]`)."""
        self.page.wait_for_function(
            """() => {
                const session = window.jupyterapp.shell.currentWidget.sessionContext;
                const waits = [...document.querySelectorAll('.jp-InputPrompt')].some(p => p.innerText.includes('*'));
                return session.session?.kernel?.status === 'idle' && !waits;
            }""",
            timeout=seconds * 1000,
        )

    def wait_for(self, index: int, text: str, seconds: float = 30) -> None:
        """Wait until the output of a cell contains `text`."""
        expect(self.output(index)).to_contain_text(text, timeout=seconds * 1000)

    def output(self, index: int) -> Locator:
        """The output area of a cell, to click and type in."""
        return self.cells.nth(index).locator(".jp-Cell-outputArea")

    def text(self, index: int) -> str:
        """The text of a cell's outputs."""
        output = self.output(index)
        return output.inner_text() if output.count() else ""

    def prompt(self, index: int) -> str:
        """The prompt beside a cell: `[1]:`, `[*]:` while it runs or waits, `[ ]:`."""
        return self.cells.nth(index).locator(".jp-InputPrompt").inner_text().replace("\xa0", " ").strip()

    def execute(self, code: str) -> str:
        """Run code in the kernel, as a console beside the notebook would; what it printed, showed and raised.

        No cell and no history entry is left of it. It waits for the cell that runs.
        """
        return self.page.evaluate(
            """async code => {
                const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
                const run = kernel.requestExecute({ code, store_history: false, stop_on_error: false });
                const parts = [];
                run.onIOPub = ({ content }) =>
                    parts.push(content.text ?? content.data?.['text/plain'] ?? content.traceback?.join('\\n') ?? '');
                await run.done;
                return parts.join('');
            }""",
            code,
        )

    def screenshot(self, path: Path, index: int | None = None) -> None:
        """A picture of the page, or of one cell."""
        target = self.page if index is None else self.cells.nth(index)
        target.screenshot(path=path)

    def shut_down(self) -> None:
        """End the kernel."""
        self.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")

    def __enter__(self) -> Notebook:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shut_down()
        self.page.close()
