"""When `prompt_for_hugging_face_token` asks, how often, and what it says; in terminals and where nobody answers."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rayllm_batch import display
from rayllm_batch.errors import GatedModelError, HubUnavailableError, InvalidTokenError, ModelNotFoundError
from util import front_end, token_line, utils
from util.front_end import FrontEnd
from util.utils import prompt_for_hugging_face_token

ROOT = Path(__file__).parents[2]
CALL = "from util.utils import prompt_for_hugging_face_token as prompt; token = prompt('org/gated')"


@pytest.fixture
def person(isolated, monkeypatch):
    """Somebody at a terminal: `answers` are what is typed, hidden or not; `questions` what was asked."""
    person = SimpleNamespace(answers=[], questions=[])

    def answer(question: str) -> str:
        person.questions.append(question)
        return person.answers.pop(0)

    monkeypatch.setattr(utils, "front_end", lambda: FrontEnd.LINE)
    monkeypatch.setattr(token_line, "getpass", answer)
    monkeypatch.setattr("builtins.input", answer)
    return person


def test_public_local_and_offline_ask_nobody(person, tmp_path, monkeypatch):
    assert prompt_for_hugging_face_token("org/public") == ""
    assert prompt_for_hugging_face_token(str(tmp_path)) == ""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert prompt_for_hugging_face_token("org/gated") == ""


def test_saved_token_asks_nobody(person, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    token = prompt_for_hugging_face_token("org/gated")
    assert isinstance(token, str) and token == "hf_alice" and "hf_alice" not in repr(token)


def test_wrong_then_right(person, capsys, isolated):
    person.answers = ["hf_wrong", "", " hf_alice\n", "n"]
    assert prompt_for_hugging_face_token("org/gated") == "hf_alice"
    said = capsys.readouterr().out
    assert "org/gated is gated" in said and "does not accept the token you entered" in said
    assert "2 of 3 tries left" in said and "1 of 3 tries left" in said
    assert "The token opens org/gated." in said and "hf_" not in said
    assert len(person.questions) == 4 and not (isolated / "token").exists()


def test_remember(person, capsys, isolated):
    person.answers = ["hf_alice", "y"]
    prompt_for_hugging_face_token("org/gated")
    assert (isolated / "token").read_text() == "hf_alice"
    assert "remembered on this machine" in capsys.readouterr().out
    assert prompt_for_hugging_face_token("org/gated") == "hf_alice"  # from the store now, without a question
    assert len(person.questions) == 2


def test_remembering_fails_without_harm(person, hub, capsys):
    hub.fail("whoami", 500)
    person.answers = ["hf_alice", "y"]
    assert prompt_for_hugging_face_token("org/gated") == "hf_alice"
    assert "It is not remembered" in capsys.readouterr().out


def test_three_wrong_tokens(person):
    person.answers = ["hf_wrong"] * 3
    with pytest.raises(InvalidTokenError):
        prompt_for_hugging_face_token("org/gated")
    assert len(person.questions) == 3


def test_right_token_without_access_ends_at_once(person, hub):
    person.answers = ["hf_bob"]
    with pytest.raises(GatedModelError, match=f"{hub.url}/org/gated"):
        prompt_for_hugging_face_token("org/gated")


def test_wrong_saved_token_is_named_and_another_asked_for(person, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    person.answers = ["hf_alice", "n"]
    assert prompt_for_hugging_face_token("org/gated") == "hf_alice"
    assert "does not accept the token in HF_TOKEN" in capsys.readouterr().out


def test_missing_or_private(person, monkeypatch, capsys):
    person.answers = ["hf_alice", "n", "hf_alice"]
    assert prompt_for_hugging_face_token("org/private") == "hf_alice"
    with pytest.raises(ModelNotFoundError, match="There is no model org/missing"):
        prompt_for_hugging_face_token("org/missing")
    assert "If the name is wrong" in capsys.readouterr().out
    monkeypatch.setenv("HF_TOKEN", "hf_alice")  # a good token sees no such model: no question helps
    with pytest.raises(ModelNotFoundError):
        prompt_for_hugging_face_token("org/missing")
    assert not person.answers


def test_hub_down_asks_nobody(person, hub, monkeypatch):
    hub.fail("auth-check", 503)
    monkeypatch.setattr("rayllm_batch.model.hub_client.SERVER_ERROR_RETRIES", 0)
    with pytest.raises(HubUnavailableError, match="503"):
        prompt_for_hugging_face_token("org/gated")


@pytest.mark.parametrize("terminal", [True, False])
def test_terminal_or_nobody(hub, hub_env, terminal):
    started = time.monotonic()
    command = [sys.executable, "-c", f"{CALL}; print('length', len(token))"]
    if not terminal:
        done = subprocess.run(
            command, cwd=ROOT, env=hub_env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and "TokenRequiredError: org/gated is gated" in done.stderr
        assert "HF_TOKEN" in done.stderr and time.monotonic() - started < 30
        return
    pid, tty = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(sys.executable, command, hub_env)
    screen = ""
    for expect, answer in (
        ("hidden): ", "hf_wrong\n"),
        ("hidden): ", "hf_alice\n"),
        ("[y/N] ", "n\n"),
        ("length 8", ""),
    ):
        shown = ""
        while expect not in shown:
            shown += os.read(tty, 1000).decode()
        os.write(tty, answer.encode())
        screen += shown
    os.waitpid(pid, 0)
    os.close(tty)
    assert "hf_" not in screen and "2 of 3 tries left" in screen


def test_notebook_run_by_a_test_or_a_job(hub, hub_env, monkeypatch):
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CALL)])
    started = time.monotonic()
    env = {**hub_env, "JPY_SESSION_NAME": "inherited.ipynb"}  # as of `jupyter execute` in a notebook's own cell
    with pytest.raises(CellExecutionError, match=r"TokenRequiredError.*org/gated(.|\n)*HF_TOKEN"):
        NotebookClient(notebook, kernel_name="python3", timeout=60).execute(env=env, cwd=str(ROOT))
    assert time.monotonic() - started < 20


def test_front_ends(monkeypatch):
    def shell(allow_stdin: bool, **namespace: object) -> SimpleNamespace:
        kernel = SimpleNamespace(
            get_parent=lambda channel: {"content": {"allow_stdin": allow_stdin}}, shell_channel_thread=object()
        )
        return SimpleNamespace(kernel=kernel, user_ns=namespace)

    def of(value: object, notebook: str = "a.ipynb") -> FrontEnd:
        for module in (front_end, display):
            monkeypatch.setattr(module, "ipython_shell", lambda: value)
        monkeypatch.setenv("JPY_SESSION_NAME", notebook)
        return front_end.front_end()

    assert of(shell(True)) is FrontEnd.PANEL
    assert of(shell(False)) is FrontEnd.NOBODY
    assert of(shell(True, __vsc_ipynb_file__="a.ipynb")) is FrontEnd.LINE
    assert of(shell(True), notebook="a-jvsc-6f1e.ipynb") is FrontEnd.LINE
    assert of(shell(True), notebook="") is FrontEnd.LINE  # a console, or VS Code's own kernel
    monkeypatch.setattr(display, "find_spec", lambda name: None)
    assert of(shell(True)) is FrontEnd.LINE  # no ipywidgets
    assert of(None) is FrontEnd.NOBODY  # pytest has no terminal
