"""Thoughts, forms and tools through a real vLLM engine on CPU: the demo model, two of whose tokens are named anew as marks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
TEMPLATE = (
    "{{ bos_token }}{% if tools %}{% for tool in tools %}{{ tool.function.name }} {% endfor %}{% endif %}"
    "{% for message in messages %}<|user|>{{ message.content }}{{ eos_token }}{% endfor %}"
    "<|assistant|><think>{% if enable_thinking is defined and not enable_thinking %}</think>{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "harbour_status", "parameters": {"type": "object"}}}]
END_OF_THOUGHTS = 0  # a token id


def thinking_model(folder: Path) -> Path:
    """Its thoughts are what it always says; it ends them where logit_bias makes it."""
    shutil.copytree("assets/demo-model", folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = folder / name
        file.write_text(file.read_text().replace("<|system|>", "<think>").replace("<|pad|>", "</think>"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


class Asked(ChatWorkloadBase):
    kinds: tuple[str, ...] = ("ends", "goes on")
    output_schema = ["yes", "no"]
    sampling_params = {"max_tokens": 16, "temperature": 0.0}

    def load_dataset(self) -> Any:
        import ray.data

        return ray.data.from_arrow(pa.table({"kind": self.kinds}))

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        text = "Did the council open the library on Monday? Three hundred people came to the harbour."
        own = {"logit_bias": {END_OF_THOUGHTS: 20.0}} if row["kind"] == "ends" else {}
        return {"messages": [{"role": "user", "content": text}], "sampling_params": own}


class FormOrTools(Asked):
    """A row has one of the two: a form lets no call through."""

    output_schema = None
    kinds = ("form", "tools")

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        of_kind = {
            "form": {"sampling_params": {"structured_outputs": {"choice": ["yes", "no"]}}},
            "tools": {"tools": TOOLS},
        }
        return {"messages": super().parse_row(row)["messages"], **of_kind[row["kind"]]}


def rows(model: Path, workload: Any, **override: Any) -> dict[str, dict[str, Any]]:
    kwargs = {"max_model_len": 512, "max_num_seqs": 8, "speculative_config": None, "reasoning_parser": "deepseek_r1"}
    config = init_engine_from_config(
        "configs/demo-cpu.yaml",
        {"model_id": str(model), "engine_kwargs": {**kwargs, "tool_parser": "hermes"}, **override},
    )
    dataset = RayLLMBatch(config, workload, num_replicas=1).run()
    return {row["kind"]: row for row in dataset.take_all()}


def test_thoughts_forms_and_tools(ray_cluster: Any, tmp_path: Path) -> None:
    model = thinking_model(tmp_path / "thinker")
    told = rows(model, Asked())
    ends, goes_on = told["ends"], told["goes on"]
    assert ends["error"] is None and ends["parsed"] == ends["generated_text"] and ends["parsed"] in ("yes", "no"), (
        "the form holds after the thoughts, and only there"
    )
    assert len(ends["reasoning"].split()) > 5 and ends["tool_calls"] == []
    assert ends["num_generated_tokens"] > ends["num_reasoning_tokens"] > 5
    assert goes_on["error"].startswith("answer: the token limit was reached before anything came after the thoughts")
    assert goes_on["generated_text"] is None and goes_on["parsed"] is None and goes_on["finish_reason"] == "error"
    assert len(goes_on["reasoning"].split()) > 5, "not the form: it waits"
    assert goes_on["num_reasoning_tokens"] == goes_on["num_generated_tokens"] == 16

    told = rows(model, FormOrTools(), chat_template_kwargs={"enable_thinking": False})
    off, plain = told["form"], told["tools"]
    assert off["error"] is None and off["generated_text"] in ("yes", "no"), "the prompt has ended the thoughts"
    assert (off["reasoning"], off["num_reasoning_tokens"]) == (None, 0)

    assert plain["error"] is None and plain["tool_calls"] == [] and plain["generated_text"]
    assert plain["num_input_tokens"] > off["num_input_tokens"], "the tools are in the prompt"
    assert json.loads(json.dumps(plain)) == plain
