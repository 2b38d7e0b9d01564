"""The token panel in a real JupyterLab, with a real pointer and keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("playwright")
from hub_fixtures import child_env, standard_hub
from hub_server import HubServer
from jupyterlab_harness import JupyterLab, Notebook
from playwright.sync_api import Browser, expect

CELLS = [
    "from util.utils import prompt_for_hugging_face_token\ntoken = prompt_for_hugging_face_token('org/gated')",
    "order = [len(token)]; token",
    "order.append('second'); print(order)",
]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with standard_hub() as server:
        yield server


@pytest.fixture(scope="module")
def lab(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    root, home = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("home")
    env = child_env(hub, home / "user")
    with JupyterLab(root, home / "lab", env, save_widget_state=True) as lab:
        yield lab


@pytest.fixture
def notebook(lab: JupyterLab, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Notebook]:
    cells = [nbformat.v4.new_code_cell(code) for code in CELLS]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = lab.root / f"{request.node.name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    with lab.open(browser, path.name) as notebook:
        yield notebook


def enter(notebook: Notebook, token: str, key: bool = False) -> None:
    panel = notebook.output(0)
    field = panel.get_by_placeholder("hf_")
    expect(field).to_be_enabled()
    expect(field).to_have_attribute("type", "password")
    field.click()
    field.press_sequentially(token)
    if key:
        field.press("Enter")
    else:
        panel.get_by_role("button", name="Use this token").click()


def stored_token(lab: JupyterLab) -> Path:
    return Path(lab.env["HF_HOME"]) / "token"


def test_run_all_waits_for_wrong_then_right(lab, notebook):
    notebook.run_all()
    notebook.wait_for(0, "org/gated is gated")
    assert [notebook.prompt(i) for i in range(3)] == ["[*]:"] * 3
    enter(notebook, "hf_wrong")
    notebook.wait_for(0, "2 of 3 tries left")
    saved = json.dumps(notebook.save())  # with the panel open, and the state of its widgets in the file
    assert "PasswordModel" in saved and "hf_wrong" not in saved
    enter(notebook, "hf_alice", key=True)
    notebook.wait_until_idle()
    assert notebook.text(0).strip() == "The token opens org/gated."
    assert "Secret('***')" in notebook.text(1)
    assert "[8, 'second']" in notebook.text(2)
    assert [notebook.prompt(i) for i in range(3)] == ["[1]:", "[2]:", "[3]:"]
    saved = json.dumps(notebook.save())
    assert "The token opens org/gated." in saved and "hf_alice" not in saved and "hf_wrong" not in saved
    assert not stored_token(lab).exists()


def test_cell_by_cell_and_remember(lab, notebook):
    notebook.run_cell(0)
    notebook.wait_for(0, "Remember it on this machine")
    notebook.output(0).get_by_role("checkbox").check()
    enter(notebook, "hf_alice")
    notebook.wait_until_idle()
    assert "remembered on this machine" in notebook.text(0)
    assert stored_token(lab).read_text() == "hf_alice"
    notebook.run_cell(0)  # twice in one kernel: the store answers now
    notebook.wait_until_idle()
    assert notebook.text(0) == "" and notebook.prompt(0) == "[2]:"
    assert "hf_alice" not in json.dumps(notebook.save())
    stored_token(lab).unlink()


def test_stop_button(notebook):
    notebook.run_all()
    notebook.wait_for(0, "org/gated is gated")
    notebook.interrupt()
    notebook.wait_for(0, "KeyboardInterrupt")
    notebook.wait_until_idle()
    assert "Cancelled" in notebook.text(0) and "Use this token" not in notebook.text(0)
    assert notebook.text(1) == "" and notebook.prompt(1) == "[ ]:"  # "Run All" ended there
    notebook.run_cell(0)  # and the cell can ask again
    notebook.wait_for(0, "org/gated is gated")
    enter(notebook, "hf_alice")
    notebook.wait_until_idle()
    assert "The token opens org/gated." in notebook.text(0)


def test_right_token_without_access(hub, notebook):
    notebook.run_all()
    enter(notebook, "hf_bob")
    notebook.wait_for(0, "GatedModelError")
    notebook.wait_until_idle()
    assert "the token you entered is valid, but has no access to org/gated" in notebook.text(0).lower()
    expect(notebook.output(0).get_by_role("link").first).to_have_attribute("href", f"{hub.url}/org/gated")
    assert "hf_bob" not in json.dumps(notebook.save())


RUN = """from rayllm_batch.show.status import Status
from rayllm_batch.show.status_view import choose_view
from util.run_panel import watched
import time
with watched():
    view, stopped = choose_view(), False
try:
    for row in range(600):
        view.show(Status("generating", ((0, f"{row} of 600 rows"),), row, 600))
        time.sleep(0.1)
except KeyboardInterrupt:
    stopped = True
finally:
    view.close(None)"""


def test_a_run_is_watched_and_stopped_in_a_page_that_is_opened_again(lab: JupyterLab, browser: Browser) -> None:
    cells = [nbformat.v4.new_code_cell(code) for code in (RUN, "print(f'{stopped=} {row < 599}')")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = lab.root / "run.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    closed = lab.open(browser, path.name)
    closed.run_cell(0)
    closed.wait_for(0, " of 600 rows")
    closed.save()
    closed.page.close()
    page = browser.new_page()
    page.goto(f"{lab.url}/lab/tree/{path.name}?token={lab.token}")
    with Notebook(page, path) as notebook:
        notebook.wait_for(0, " of 600 rows")
        before = notebook.text(0)
        expect(notebook.output(0)).not_to_contain_text(before.splitlines()[0])  # it goes on
        notebook.output(0).get_by_role("button", name="Stop").click()
        expect(notebook.output(0).get_by_role("button")).to_have_count(0)
        notebook.wait_until_idle()
        notebook.run_cell(1)
        notebook.wait_for(1, "stopped=True True")
        expect(notebook.output(0)).to_contain_text(" of 600 rows")  # how far it was
