"""A real vLLM server on CPU with the demo model, as engine: it answers what transformers does, and refuses rows."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch.engine.base import BadRequest, Reply, Request
from rayllm_batch.engine.openai import OpenAI, OpenAIEngine
from rayllm_batch.errors import ConfigError

pytestmark = pytest.mark.vllm
MODEL, KEY, TOKENS = "assets/demo-model", "sk-served-0123456789abcdef", 24
CHAT = [{"role": "user", "content": "Row 1 asks for a summary of what the council said about the harbour."}]
GREEDY = {"temperature": 0.0, "max_tokens": TOKENS}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("served") / "log"
    options = "--served-model-name demo --dtype float32 --max-model-len 512 --max-num-seqs 8 --enforce-eager"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL, *options.split()]
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--api-key", KEY],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"},
        )
        try:
            deadline = time.monotonic() + 300
            while not listens(port):
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:
        return False


def said_by_transformers(prompts: list[Any]) -> list[str]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    texts = []
    for prompt in prompts:
        ids = prompt
        if not isinstance(prompt[0], int):
            ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        given = torch.tensor([ids])
        out = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=TOKENS, do_sample=False)
        texts.append(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).rstrip("\ufffd"))
    return texts


def test_it_answers_as_transformers_does_and_takes_what_rows_ask_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kwargs = {"base_url": url}
    with pytest.raises(ConfigError, match="It was asked without a key"):
        OpenAI().check_before_start("demo", kwargs, {}, {})
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ConfigError, match="Did you mean 'demo'"):
        OpenAI().check_before_start("demos", kwargs, {}, {})
    with pytest.raises(ConfigError, match="refuses the smallest request with these settings .*top_p"):
        OpenAI().check_before_start("demo", kwargs, {}, {"top_p": 7})
    OpenAI().check_before_start("demo", kwargs, {}, {**GREEDY, "top_k": 3, "structured_outputs": {"choice": ["yes"]}})
    chats = [[{"role": "user", "content": f"{n}: {CHAT[0]['content']}"}] for n in range(6)]
    ids = [1, *Path(MODEL).name.encode(), 300, 301]
    begun = [*CHAT, {"role": "assistant", "content": "The council"}]
    asked = {
        **{f"chat {n}": Request([], GREEDY, messages=chat) for n, chat in enumerate(chats)},
        "ids": Request(ids, GREEDY),
        "text": Request([], {**GREEDY, "logprobs": 1}, prompt="The council said"),
        "begun": Request([], GREEDY, messages=begun),
        "logprobs": Request([], {**GREEDY, "logprobs": 2}, messages=CHAT),
        "choice": Request([], {**GREEDY, "structured_outputs": {"choice": ["yes", "no"]}}, messages=CHAT),
        "several": Request([], {"temperature": 1.0, "seed": 1, "n": 3, "max_tokens": 4}, messages=CHAT),
        "own": Request([], {**GREEDY, "top_k": 3, "repetition_penalty": 1.1, "stop_token_ids": [3]}, messages=CHAT),
        "long": Request([], GREEDY, messages=[{"role": "user", "content": "x " * 2000}]),
        "adapter": Request([], GREEDY, model="nope", messages=CHAT),
        "no such id": Request([10**7], GREEDY),
    }

    async def ask() -> dict[str, Any]:
        engine = OpenAIEngine("demo", kwargs)
        found = await asyncio.gather(*map(engine.generate, asked.values()), return_exceptions=True)
        await engine._connection.close()
        return dict(zip(asked, found, strict=True))

    found = asyncio.run(ask())
    refused = {name: str(one) for name, one in found.items() if isinstance(one, BadRequest)}
    assert list(refused) == ["long", "adapter", "no such id"] and KEY not in str(refused)
    assert "maximum context length is 512 tokens" in refused["long"] and "does not exist" in refused["adapter"]
    replies: dict[str, Reply] = {name: one for name, one in found.items() if isinstance(one, Reply)}
    assert len(replies) == len(asked) - 3, found
    texts = [replies[f"chat {n}"].text for n in range(6)] + [replies["ids"].text]
    assert texts == said_by_transformers([*chats, ids])
    one = replies["chat 0"]
    assert 0 < one.num_generated_tokens <= TOKENS and one.num_input_tokens > 10
    assert replies["choice"].text in ("yes", "no") and len(replies["several"].texts) == 3
    tokens = replies["logprobs"].logprobs
    assert tokens is not None and len(tokens[0]) == replies["logprobs"].num_generated_tokens
    assert {len(position) for position in tokens[0]} == {2} and tokens[0][0][0]["rank"] == 1
    assert replies["text"].logprobs and replies["begun"].num_input_tokens > replies["logprobs"].num_input_tokens
