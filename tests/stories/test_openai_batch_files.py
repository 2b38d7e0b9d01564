"""`rayllm-batch openai-batch`: the whole command with the echo engine, broken; and with vLLM beside vLLM's own server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.openai_batch import Job
from rayllm_batch import cli

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]


def test_nothing_is_lost_when_the_driver_is(tmp_path: Path) -> None:
    job = Job(tmp_path, lines=10_000, bad=50)
    job.kill(parts=1)
    found = job.finish()
    assert (found.results, found.errors, found.lost, found.doubled) == (9_950, 50, 0, 0)
    assert 0 <= found.answered_again < 9_000, "what was written is not asked again"


def lines(path: Path) -> dict[str, Any]:
    return {line["custom_id"]: line for line in map(json.loads, path.open())}


def request(name: str, body: Any, url: str = "/v1/chat/completions") -> str:
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body}) + "\n"


def test_a_line_is_mended_and_the_same_command_comes_again(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rayllm_batch.termination._is_rays", lambda _: True)  # whatever tests before have left there
    calls, requests, out = tmp_path / "calls", tmp_path / "requests.jsonl", tmp_path / "new" / "results.jsonl"
    config = f"{{model_id: {ROOT}/assets/demo-model, llm_engine: echo, accelerator_type: CPU, engine_kwargs: {{calls_file: {calls}}}}}"
    (tmp_path / "echo.yaml").write_text(config)
    hello = {"model": "m", "messages": [{"role": "user", "content": "Hello there"}], "temperature": 0.5}
    command = ["openai-batch", "--config", str(tmp_path / "echo.yaml"), "-i", str(requests), "-o", str(out)]
    command += ["--served-model-name", "m", "--errors", str(tmp_path / "errors.jsonl"), "-s", "max_tokens=3"]

    requests.write_text("nonsense\n" * 9 + request("a", {"model": "x"}))
    assert cli.main(command) == cli.ROWS_FAILED
    assert "fails on each of the first 8 row(s)" in capsys.readouterr().err or out.exists()
    assert (
        not calls.exists() and out.read_text() == "" and len((tmp_path / "errors.jsonl").read_text().splitlines()) == 10
    )

    requests.write_text(request("a", hello) + request("b", {**hello, "stream": True}) + request("c", hello))
    assert cli.main(command) == cli.ROWS_FAILED
    assert set(lines(out)) == {"a", "c"} and set(lines(tmp_path / "errors.jsonl")) == {"b"}
    assert lines(out)["a"]["response"]["body"]["usage"]["completion_tokens"] == 3, "of -s"
    before, answered = out.read_text(), calls.stat().st_size

    requests.write_text(request("a", hello) + request("b", hello))
    assert cli.main(command) == cli.DONE
    assert set(lines(out)) == {"a", "b"} and (tmp_path / "errors.jsonl").read_text() == ""
    assert lines(out)["a"]["response"]["body"]["id"] in before, "it is the answer of before"
    assert calls.stat().st_size == answered + 1, "the line that was mended alone was asked"
    assert "2 results and 0 errors are in" in capsys.readouterr().out


SERVER = "--served-model-name demo --dtype float32 --max-model-len 512 --max-num-seqs 16 --enforce-eager --generation-config vllm "
FORMS = '{"backend":"xgrammar","disable_any_whitespace":true}'  # else the demo model prints line breaks to its limit
SERVER += f"--enable-auto-tool-choice --tool-call-parser pythonic --structured-outputs-config {FORMS}"
TEXT = "Did the council open the library on Monday? Three hundred people came to the harbour, and a storm closed two roads."
CHAT = [{"role": "user", "content": TEXT}]
SCHEMA = {"type": "object", "properties": {"open": {"type": "boolean"}}, "required": ["open"]}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {**SCHEMA, "additionalProperties": False}}}
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
NAMED = {"type": "function", "function": {"name": "look_up"}}
# What is asked of both, over a chat at temperature 0; the first two are vLLM's example of a batch file.
CHATS: dict[str, dict[str, Any]] = {
    "request-1": {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Hello world!"},
        ]
    },
    "request-2": {
        "messages": [
            {"role": "system", "content": "You are an unhelpful assistant."},
            {"role": "user", "content": "Hello world!"},
        ]
    },
    "parts": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}, {"type": "text", "text": "Why?"}]}]
    },
    "limits": {"max_completion_tokens": 3, "max_tokens": 9},
    "several": {"n": 3, "temperature": 0.8, "seed": 7},
    "sampled": {"temperature": 1.0, "seed": 11, "top_p": 0.9, "top_k": 20, "min_p": 0.01},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"logprobs": True, "top_logprobs": 3},
    "chosen logprobs": {"logprobs": True, "logprob_token_ids": [5, 6]},
    "prompt_logprobs": {"prompt_logprobs": 1},
    "stop": {"stop": ["a", "e"], "include_stop_str_in_output": True},
    "stop ids": {"stop_token_ids": list(range(300, 340)), "ignore_eos": True},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "open", "schema": SCHEMA}}},
    "cut": {"response_format": {"type": "json_object"}, "max_tokens": 2},
    "choice": {"structured_outputs": {"choice": ["yes", "no"]}},
    "penalties": {
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.2,
        "logit_bias": {"300": 5},
    },
    "begun": {"messages": [*CHAT, {"role": "assistant", "content": "The council"}]},
    "goes on": {
        "messages": [*CHAT, {"role": "assistant", "content": "The council"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    "of no turn": {"add_generation_prompt": False},
    "no calls": {"tools": [TOOL], "tool_choice": "none"},
    "user": {"user": "somebody", "metadata": {"of": "them"}},
    "another model": {"model": "gpt-4"},
    "wrong type": {"temperature": "hot"},
    "out of range": {"top_p": 0},
    "greedy": {"n": 2},
    "tools": {"tools": [TOOL, NOW]},
    "forced": {"tools": [TOOL, NOW], "tool_choice": "required", "max_tokens": 60},
    "forced, one": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60, "parallel_tool_calls": False},
    "forced, cut": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 4},
    "named": {"tools": [TOOL, NOW], "tool_choice": NAMED, "max_tokens": 40},
    "named, several": {"tools": [TOOL], "tool_choice": NAMED, "max_tokens": 40, "n": 2, "temperature": 1, "seed": 3},
    "named, cut": {"tools": [TOOL], "tool_choice": NAMED, "max_tokens": 2},
    "named, none such": {"tools": [NOW], "tool_choice": NAMED},
    "forced, no tools": {"tool_choice": "required"},
    "forced, no choice": {"tools": [TOOL], "tool_choice": "always"},
    "no tools": {"tools": []},
    "alone": {"top_logprobs": 2},
    "long": {"messages": [{"role": "user", "content": TEXT * 40}]},
    "image": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}
        ]
    },
    "too many": {"logprobs": True, "top_logprobs": 50},
}
COMPLETIONS: dict[str, dict[str, Any]] = {
    "text": {},
    "ids": {"prompt": [5, 6, 7, 8]},
    "list": {"prompt": [TEXT]},
    "its own limit": {"max_tokens": None},
    "several texts": {"n": 2, "temperature": 0.7, "seed": 5},
    "text logprobs": {"logprobs": 2},
    "text prompt_logprobs": {"prompt_logprobs": 1},
    "suffix": {"suffix": "end"},
    "empty": {"prompt": ""},
}
OWN = ("id", "created", "system_fingerprint")  # of each response, and of each call


def asked() -> dict[str, tuple[str, dict[str, Any]]]:
    of_both = {"model": "demo", "max_tokens": 8, "temperature": 0}
    chats = {name: ("/v1/chat/completions", {**of_both, "messages": CHAT, **body}) for name, body in CHATS.items()}
    texts = {name: ("/v1/completions", {**of_both, "prompt": TEXT, **body}) for name, body in COMPLETIONS.items()}
    return {**chats, **texts}


@contextmanager
def server(log: Path, *more: str) -> Iterator[str]:
    """vLLM's, with the demo model; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "assets/demo-model"]
    command += [*SERVER.split(), *more, "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=said, start_new_session=True)
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()[-3000:]
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def of_the_server(log: Path, template: Path) -> dict[str, tuple[int, Any]]:
    """What OpenAI's client gets for each request: its status, and the body."""
    import openai

    found: dict[str, tuple[int, Any]] = {}
    with server(log, "--chat-template", str(template)) as address:
        client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
        for name, (_, body) in asked().items():
            more = {key: value for key, value in body.items() if key not in ("model", "messages", "prompt")}
            of_url: Any = client.chat.completions if "messages" in body else client.completions
            first = {key: body[key] for key in ("model", "messages", "prompt") if key in body}
            try:
                raw = of_url.with_raw_response.create(**first, extra_body=more)
                found[name] = 200, json.loads(raw.text)
            except openai.APIStatusError as error:
                found[name] = error.status_code, error.response.json()["error"]
    return found


def differences(theirs: Any, ours: Any, where: str) -> Iterator[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in {**theirs, **ours}:
            if key not in theirs or key not in ours:
                yield f"{where}.{key} is {'ours' if key in ours else 'theirs'} alone"
            elif key not in OWN or where and "tool_calls[" not in where:
                yield from differences(theirs[key], ours[key], f"{where}.{key}")
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for i, pair in enumerate(zip(theirs, ours, strict=True)):
            yield from differences(*pair, f"{where}[{i}]")
    elif theirs != (pytest.approx(ours, abs=1e-3) if isinstance(ours, float) else ours):
        yield f"{where}: theirs {theirs!r}, ours {ours!r}"


@pytest.mark.vllm
def test_it_answers_as_vllms_server_does(ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same texts, counts, reasons, log-probabilities and statuses, in bodies with the same keys."""
    from vllm.entrypoints.launchers.run_batch import BatchRequestOutput

    monkeypatch.setattr("rayllm_batch.termination._is_rays", lambda _: True)
    own = (ROOT / "assets" / "demo-model" / "chat_template.jinja").read_text()
    (template := tmp_path / "tools.jinja").write_text(
        "{% if tools %}{% for tool in tools %}{{ tool.function.name }} {% endfor %}{% endif %}" + own
    )
    theirs = of_the_server(tmp_path / "server.log", template)
    requests, out = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    requests.write_text("".join(request(name, body, url) for name, (url, body) in asked().items()))
    kwargs = "{dtype: float32, max_model_len: 512, max_num_seqs: 16, enforce_eager: true, served_model_name: demo, tool_parser: pythonic"
    kwargs += f", structured_outputs_config: {FORMS}}}"
    kwargs += f", chat_template: {json.dumps(template.read_text())}"
    env = "{env_vars: {VLLM_CPU_KVCACHE_SPACE: 1}}"
    config = f"{{model_id: {ROOT}/assets/demo-model, llm_engine: vllm, accelerator_type: CPU, engine_kwargs: {kwargs}, runtime_env: {env}}}"
    (tmp_path / "vllm.yaml").write_text(config)
    assert cli.main(["openai-batch", "--config", str(tmp_path / "vllm.yaml"), "-i", str(requests), "-o", str(out)]) == 3
    ours = lines(out)
    found = []
    for name, (status, body) in theirs.items():
        response, error = ours[name]["response"], ours[name]["error"]
        if response["status_code"] != status:
            found.append(f"{name}: theirs {status} {body}, ours {response['status_code']} {error}")
        elif status == 200:
            found += differences(body, response["body"], "")
            if name in CHATS:
                BatchRequestOutput.model_validate(ours[name])
        else:
            # What its web framework refuses, before the server sees it, has HTTP's words for a type.
            keys = ("code",) if body["type"] == "Bad Request" else ("type", "code")
            found += [f"{name}: {key}" for key in keys if body[key] != error["error"][key]]
            BatchRequestOutput.model_validate(ours[name])
    assert not found, "\n".join(found)
    assert set(ours) == set(theirs) and sum(status == 200 for status, _ in theirs.values()) > 25
