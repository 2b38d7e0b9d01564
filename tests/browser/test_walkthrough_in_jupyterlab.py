"""README.ipynb stepped through in a real JupyterLab, with a gated model, by somebody who mistypes the token first.

One engine start pays for all of it: the token panel, the run, Ray's dashboard while it goes on, the notebook on the
disk, the search for the token everywhere, and the pictures that the walkthrough shows.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright")
import exposure
from hub_fixtures import child_env
from hub_server import HubServer
from jupyterlab_harness import JupyterLab, Notebook
from playwright.sync_api import Browser, expect
from vllm_processes import engines_below, left_after

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
REPOSITORY = Path(__file__).parents[2]
PICTURES = REPOSITORY / "test-results"
PARTS = ("README.ipynb", "main.py", "README.md", "jupytext.toml", "rayllm_batch", "util", "configs", "assets")
MODEL = "example/gated-demo-model"
ROWS = 40


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a user has: a copy of the repository, with a config for the gated model."""
    root = tmp_path / "clone"
    root.mkdir()
    for name in PARTS:
        source = REPOSITORY / name
        shutil.copytree(source, root / name) if source.is_dir() else shutil.copy(source, root / name)
    demo = (root / "configs" / "demo-cpu.yaml").read_text()
    # Eight requests at once, so that the rows are done in several waves, and the dashboard has progress to show.
    for old, new in (("model_id: ../assets/demo-model", f"model_id: {MODEL}"), ("max_num_seqs: 32", "max_num_seqs: 8")):
        assert old in demo
        demo = demo.replace(old, new)
    (root / "configs" / "gated.yaml").write_text(demo)
    return root


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where this run's Ray keeps its sessions. Its sockets allow no long path, as pytest's folders have."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_every_cell_with_a_gated_model(browser: Browser, clone: Path, ray_folder: Path, tmp_path: Path) -> None:
    right, wrong = (f"hf_{secrets.token_hex(17)}" for _ in range(2))
    PICTURES.mkdir(exist_ok=True)
    with HubServer() as hub:
        hub.tokens[right] = "alice"
        hub.add("models", MODEL, REPOSITORY / "assets" / "demo-model", gated=True, readers={"alice"})
        env = child_env(hub, tmp_path / "user")
        env |= {"CONFIG": "configs/gated.yaml", "ROWS": str(ROWS), "MAX_TOKENS": "150", "SAMPLE_ROWS": "4"}
        env |= {"RAY_TMPDIR": str(ray_folder), "RAY_AUTH_MODE": "disabled"}
        with JupyterLab(clone, tmp_path / "lab", env) as lab, lab.open(browser, "README.ipynb", width=1100) as notebook:
            cells = Cells(notebook)
            cells.start("prompt_for_hugging_face_token(engine")
            texts = type_the_tokens(notebook, cells.last, wrong, right)
            cells.run_to("sample = workload")
            dashboard = notebook.execute("print('http://' + ray.init(ignore_reinit_error=True).dashboard_url)").split()[
                -1
            ]
            cells.run_to("batch.preview(")
            notebook.wait_for(cells.last, "<|assistant|>")
            engines = engines_below(lab.process.pid)
            picture_of_a_table(notebook, cells.last, "preview")
            cells.run_to("batch.estimate(")
            notebook.wait_for(cells.last, f"{ROWS} rows on 1 replica (CPU): about")
            cells.start("ds = batch.run(OUTPUT or None)")
            texts |= watch(browser, dashboard, notebook, cells.last)
            cells.run_to("show_results(")
            browse(notebook, cells.last)
            cells.run_to("batch.report(")
            verdict = notebook.output(cells.last).locator("iframe").content_frame.locator(".verdict")
            expect(verdict).to_contain_text(re.compile("full|fill|short"))
            picture_of_the_report(browser, clone / "report.html")
            cells.run_to(None)
            texts |= {f"after the run: {path}": text for path, text in exposure.ray_api(dashboard).items()}
            texts |= {f"the kernel: {code}": notebook.execute(code) for code in SHOWN}
            outputs = [out for cell in notebook.save()["cells"] for out in cell.get("outputs", [])]
            left = left_after(0, engines) + engines_below(lab.process.pid)
    printed = "".join("".join(out.get("text", "")) for out in outputs)
    assert f"{ROWS} rows, 0 failed" in printed and "output tokens/s" in printed
    assert not [out for out in outputs if out["output_type"] == "error"]
    assert (clone / "main.py").read_bytes() == (REPOSITORY / "main.py").read_bytes()
    assert engines and not left
    assert {token for _, path, token in hub.requests if "/resolve/" in path} == {right}  # it opened every file

    assert "kept from before" in json.dumps(outputs), "the engine is started once, by the preview"
    texts |= exposure.files(tmp_path) | exposure.files(ray_folder)
    leaks = exposure.places_with([right, wrong], texts)
    # An empty answer has no token either, so the search must have found what else is in each place.
    unread = [place for place, holds in LOOKED_AT.items() if not exposure.places_with([holds], within(texts, place))]
    assert (leaks, unread) == ([], [])


# Places that the search must have read, and what it finds there when it has.
LOOKED_AT = {
    "README.ipynb": "The token opens",
    "logs/rayllm_batch-": "gated-demo-model",  # the engine's own log
    "logs/worker-": ":job_id:",
    "logs/dashboard": "INFO",
    "jupyterlab.log": "README.ipynb",
    "during the run: /api/v0/actors": "RunMonitor",
    "during the run: /api/v0/tasks?": "prompt_tables",
    "during the run: /api/v0/jobs": "ipykernel_launcher",
    "during the run: /api/v0/workers": "pid",
    "during the run: /api/data/datasets": "MapBatches",
    "during the run: /logical/actors": "Relay",
    "during the run: /nodes/": "ray::",  # the command lines of its processes
    "after the run: /api/v0/tasks?": "prompt_tables",
    "the Jobs page": "RUNNING",
    "the job's page": "MapBatches",
    "the kernel: print(engine": "HF_TOKEN",
    "the kernel: init_engine_from_config": "no_such_key",
    "the kernel: from rayllm_batch.model.hub": "There is no model example/missing",
}

# What people look at when something goes wrong. Verbose tracebacks show the variables of every frame.
SHOWN = [
    "print(engine, batch, workload)",
    "token",
    "engine.env_vars, engine.hf_token, vars(batch), dict(engine.env_vars)",
    "%xmode Verbose",
    "init_engine_from_config(config, override={'runtime_env': {'env_vars': {'HF_TOKEN': token}}, 'no_such_key': 1})",
    "from rayllm_batch.model.hub import check_model_access; check_model_access('example/missing', token)",
    "from rayllm_batch.model.files import download_model; download_model('example/missing', token)",
]


def within(texts: dict[str, str], place: str) -> dict[str, str]:
    """The texts of one place."""
    return {name: text for name, text in texts.items() if place in name}


class Cells:
    """Steps through the notebook by its keys, text cells included. `last` is the cell that was run last."""

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook
        cells = json.loads(notebook.path.read_text())["cells"]
        self._sources = ["".join(cell["source"]) if cell["cell_type"] == "code" else "" for cell in cells]
        self.last = -1

    def start(self, code: str | None) -> None:
        """Run every cell up to the code cell that holds `code`, without waiting for that one. None: to the end."""
        while self.last + 1 < len(self._sources):
            self._notebook.wait_until_idle(seconds=300)
            self.last += 1
            self._notebook.run_cell(self.last)
            if code and code in self._sources[self.last]:
                return
        assert code is None, f"no cell from here on has {code!r}"

    def run_to(self, code: str | None) -> None:
        """The same, and wait for that one too."""
        self.start(code)
        self._notebook.wait_until_idle(seconds=300)


def type_the_tokens(notebook: Notebook, index: int, wrong: str, right: str) -> dict[str, str]:
    """Enter both into the panel; what it said to each."""
    panel = notebook.output(index)
    notebook.wait_for(index, f"{MODEL} is gated")
    field, button = panel.get_by_placeholder("hf_"), panel.get_by_role("button", name="Use this token")
    field.press_sequentially(wrong)
    notebook.screenshot(PICTURES / "token-prompt.png", index)
    button.click()
    notebook.wait_for(index, "does not accept the token you entered")
    said = {"the panel, wrong token": panel.inner_html()}
    assert notebook.prompt(index) == "[*]:"  # it still waits
    expect(field).to_be_enabled()
    field.press_sequentially(right)
    button.click()
    notebook.wait_for(index, f"The token opens {MODEL}.")
    notebook.wait_until_idle()
    return {**said, "the panel, right token": panel.inner_html()}


def watch(browser: Browser, dashboard: str, notebook: Notebook, index: int) -> dict[str, str]:
    """Ray's dashboard while the run goes on: the Jobs page, the job's page with its Ray Data view, and the API."""
    page = browser.new_page(viewport={"width": 1500, "height": 1000}, device_scale_factor=1.5)
    page.goto(f"{dashboard}/#/jobs")
    expect(page.get_by_text("RUNNING").first).to_be_visible()
    seen = {"the Jobs page": page.content()}
    page.get_by_role("link", name="01000000").first.click()
    title = page.get_by_text("Ray Data Overview").first
    title.click(timeout=120_000)  # it is there once rows are on their way
    datasets = page.locator("tr").filter(has_text="dataset_")
    datasets.filter(has_text="RUNNING").locator("svg").first.click(timeout=120_000)
    engine_stage = page.locator("tr").filter(has_text="MapBatches(Relay)").first
    expect(engine_stage).to_be_visible()
    notebook.wait_for(index, "Engine ready", seconds=300)
    expect(notebook.output(index).locator("progress")).to_be_visible()
    expect(notebook.output(index).get_by_role("button", name="Stop")).to_be_visible()
    while notebook.prompt(index) == "[*]:" and not re.search(r"[1-9]\d* */", engine_stage.inner_text()):
        page.wait_for_timeout(500)  # until the first blocks are through it
    seen |= {f"during the run: {path}": text for path, text in exposure.ray_api(dashboard).items()}
    page.screenshot(path=PICTURES / "dashboard-job.png", full_page=True)
    seen["the job's page"] = page.content()
    page.close()
    return seen


def picture_of_a_table(notebook: Notebook, index: int, name: str, rows: int = 1) -> None:
    """The first rows of it."""
    table = notebook.output(index).locator("table").last
    table.evaluate("element => element.scrollIntoView({ block: 'start' })")
    head, last = table.locator("thead").bounding_box(), table.locator("tbody tr").nth(rows - 1).bounding_box()
    clip = {"x": head["x"], "y": head["y"], "width": head["width"], "height": last["y"] + last["height"] - head["y"]}
    notebook.page.screenshot(path=PICTURES / f"{name}.png", clip=clip)


def browse(notebook: Notebook, index: int) -> None:
    """The table of results, with one row open."""
    frame = notebook.output(index).locator("iframe").content_frame
    expect(frame.get_by_text(f"{ROWS} rows, 0 failed")).to_be_visible()
    rows = frame.locator("tr.row")
    expect(rows).to_have_count(10)
    rows.nth(1).click()
    expect(frame.locator(".details")).to_contain_text("article")
    frame.locator(".details").evaluate("element => element.firstElementChild.nextSibling.style.maxHeight = '9em'")
    notebook.output(index).evaluate("element => element.scrollIntoView({ block: 'start' })")
    notebook.output(index).locator("iframe").screenshot(path=PICTURES / "results.png")


def picture_of_the_report(browser: Browser, path: Path) -> None:
    """The upper part of the saved file."""
    page = browser.new_page(viewport={"width": 1000, "height": 1100}, device_scale_factor=1.5)
    page.goto(path.as_uri())
    page.screenshot(path=PICTURES / "report.png")
    page.close()
