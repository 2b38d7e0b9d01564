"""The panel, in a real kernel, with this test in the place of JupyterLab: it reads and sends the same messages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty

import pytest
from hub_fixtures import child_env, standard_hub
from hub_server import HubServer
from jupyter_client.manager import start_new_kernel

ROOT = Path(__file__).parents[2]
ASK = "from util.utils import prompt_for_hugging_face_token as prompt\n"


class Notebook:
    """A client of a kernel that keeps the state of its widgets, as a notebook does."""

    def __init__(self, env: dict[str, str]) -> None:
        env = {**env, "JPY_SESSION_NAME": str(ROOT / "test.ipynb")}
        self.manager, self.client = start_new_kernel(env=env, cwd=str(ROOT))
        self.widgets: dict[str, dict] = {}
        self.displays: dict[str, dict] = {}
        self.sent: list[str] = []  # everything that the kernel published
        self.replies: list[dict] = []

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, code: str) -> str:
        return self.client.execute(code, allow_stdin=True)

    def reply(self, request: str, seconds: float = 20) -> dict:
        """The content of the answer to an execute_request; answers keep their order in `replies`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.read(0.05)
            for message in self.replies:
                if message["parent_header"]["msg_id"] == request:
                    return message["content"]
        raise TimeoutError(self.sent[-5:])

    def read(self, seconds: float) -> None:
        """Take in what the kernel publishes within `seconds`, and its answers."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self.client.get_iopub_msg(timeout=left)
            except Empty:
                break
            content, kind = message["content"], message["msg_type"]
            self.sent.append(json.dumps([kind, content], default=str))
            if kind == "comm_open":
                self.widgets[content["comm_id"]] = dict(content["data"]["state"])
            elif kind == "comm_msg" and content["data"].get("method") == "update":
                self.widgets[content["comm_id"]].update(content["data"]["state"])
            elif kind == "comm_close":
                self.widgets.pop(content["comm_id"])
            elif kind in ("display_data", "update_display_data"):
                self.displays[content["transient"]["display_id"]] = content["data"]
        while True:
            try:
                self.replies.append(self.client.get_shell_msg(timeout=0))
            except Empty:
                break

    def panel(self, text: str, seconds: float = 20) -> str:
        """Wait until the panel is open and says `text`; what it says, with its HTML."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.read(0.05)
            said = [w["value"] for w in self.widgets.values() if w["_model_name"] == "HTMLModel"]
            if said and text in said[0] and not self._widget("Button")[1]["disabled"]:
                return said[0]
        raise TimeoutError(f"The panel does not say {text!r}: {said}")

    def enter(self, token: str, click: bool = True) -> None:
        """Type a token and submit it by the button, or by Enter, whose key event comes before the field's change."""
        field, button = self._widget("Password")[0], self._widget("Button")[0]
        if not click:
            self._send(field, {"method": "custom", "content": {"event": "submit"}})
        self._send(field, {"method": "update", "state": {"value": token}, "buffer_paths": []})
        if click:
            self._send(button, {"method": "custom", "content": {"event": "click"}})

    def tick(self) -> None:
        box = self._widget("Checkbox")[0]
        self._send(box, {"method": "update", "state": {"value": True}, "buffer_paths": []})

    def _widget(self, kind: str) -> tuple[str, dict]:
        return next((i, w) for i, w in self.widgets.items() if w["_model_name"] == f"{kind}Model")

    def _send(self, comm: str, data: dict) -> None:
        session = self.client.session
        self.client.shell_channel.send(session.msg("comm_msg", {"comm_id": comm, "data": data}))


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with standard_hub() as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def kernel(hub: HubServer, home: Path) -> Iterator[Notebook]:
    notebook = Notebook(child_env(hub, home))
    yield notebook
    notebook.close()


@pytest.fixture
def notebook(kernel: Notebook, hub: HubServer, home: Path) -> Notebook:
    hub.faults.clear()
    (home / "huggingface" / "token").unlink(missing_ok=True)
    for record in (kernel.displays, kernel.sent, kernel.replies):
        record.clear()
    return kernel


def test_wrong_then_right_with_cells_queued_behind(notebook, home):
    ask = notebook.run(ASK + "order = ['token']; token = prompt('org/gated')")
    queued = [notebook.run(f"order.append({i}); assert token == 'hf_alice'; print(order)") for i in range(3)]
    assert "org/gated is gated" in notebook.panel("is gated")
    queued.append(notebook.run("order.append(3)"))
    notebook.enter("hf_wrong")
    assert "2 of 3 tries left" in notebook.panel("does not accept the token you entered")
    queued.append(notebook.run("order.append(4)"))
    notebook.read(0.5)
    assert not [m for m in notebook.replies if m["msg_type"] == "execute_reply"]
    notebook.tick()
    notebook.enter("hf_alice", click=False)
    assert notebook.reply(ask)["status"] == "ok"
    assert [notebook.reply(cell)["status"] for cell in queued] == ["ok"] * 5
    notebook.read(0.3)
    assert any("['token', 0, 1, 2]" in text for text in notebook.sent)
    answered = [m["parent_header"]["msg_id"] for m in notebook.replies if m["msg_type"] == "execute_reply"]
    assert answered[-6:] == [ask, *queued]
    assert not notebook.widgets  # closed, and their state with them
    assert "remembered" in str(notebook.displays)
    published = "".join(notebook.sent).replace("assert token == 'hf_alice'", "")
    assert "hf_alice" not in published and "hf_wrong" not in published
    assert (home / "huggingface" / "token").read_text() == "hf_alice"


def test_three_wrong_tokens(notebook):
    ask = notebook.run(ASK + "prompt('org/gated')")
    after = notebook.run("print('not reached')")
    for says in ("is gated", "2 of 3", "1 of 3"):
        notebook.panel(says)
        notebook.enter("hf_wrong")
    assert notebook.reply(ask)["ename"] == "InvalidTokenError"
    assert notebook.reply(after)["status"] == "aborted"


def test_interrupt(notebook):
    ask = notebook.run(ASK + "prompt('org/gated')")
    after = notebook.run("print('not reached')")
    notebook.panel("is gated")
    notebook.manager.interrupt_kernel()
    assert notebook.reply(ask)["ename"] == "KeyboardInterrupt"
    assert notebook.reply(after)["status"] == "aborted"
    notebook.read(0.3)
    assert not notebook.widgets and "Cancelled" in str(notebook.displays)
    assert notebook.reply(notebook.run("1 + 1"))["status"] == "ok"


def test_no_access_and_text_of_the_server_is_escaped(notebook, hub):
    hub.fail("auth-check", 401, times=1, message="Restricted", X_Error_Code="GatedRepo")
    hub.fail("auth-check", 403, message="<img src=x onerror=alert(1)>", X_Error_Code="GatedRepo")
    ask = notebook.run(ASK + "prompt('org/gated')")
    notebook.panel("is gated")
    notebook.enter("hf_alice")
    assert notebook.reply(ask)["ename"] == "GatedModelError"
    notebook.read(0.3)
    shown = next(iter(notebook.displays.values()))["text/html"]
    assert "&lt;img" in shown and "<img" not in shown


def test_vs_code_asks_by_its_input_box(notebook):
    notebook.run("__vsc_ipynb_file__ = '/home/me/README.ipynb'")
    ask = notebook.run(ASK + "token = prompt('org/gated'); del __vsc_ipynb_file__")
    for hidden, answer in ((True, "hf_wrong"), (True, "hf_alice"), (False, "n")):
        request = notebook.client.get_stdin_msg(timeout=20)["content"]
        assert request["password"] is hidden
        notebook.client.input(answer)
    assert notebook.reply(ask)["status"] == "ok"
    notebook.read(0.3)
    published = "".join(notebook.sent)
    assert "2 of 3 tries left" in published and "hf_wrong" not in published and "hf_alice" not in published


def test_verbose_traceback_and_last_value_hide_the_token(notebook):
    notebook.run("%xmode Verbose")
    ask = notebook.run(ASK + "prompt('org/missing')")
    notebook.panel("no public model")
    notebook.enter("hf_alice")
    assert notebook.reply(ask)["ename"] == "ModelNotFoundError"
    ask = notebook.run("prompt('org/private')")
    notebook.panel("no public model")
    notebook.enter("hf_alice")
    assert notebook.reply(ask)["status"] == "ok"
    notebook.read(0.3)
    assert "hf_alice" not in "".join(notebook.sent) and any("Secret('***')" in text for text in notebook.sent)
