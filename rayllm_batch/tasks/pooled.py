"""What the tasks have in common that ask a pooling model for numbers: of texts vectors, of vectors columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Optional

import pyarrow as pa

from rayllm_batch.engine import pooling
from rayllm_batch.engine.base import Pooling, Request
from rayllm_batch.engine.pooling import TRUNCATE
from rayllm_batch.errors import ConfigError, WorkloadError, did_you_mean, shown
from rayllm_batch.tasks.base import SAMPLING_PARAMS, TASK_FIELDS, Answer, ParseRow, Task
from rayllm_batch.tasks.chat import checked_ids, checked_messages

PROMPTS = ("messages", "prompt", "prompt_token_ids")  # of which a row has one
NOT_TAKEN = {
    **dict.fromkeys(("text", "input", "sentence"), 'a text goes into "prompt"'),
    **dict.fromkeys(pooling.SETTINGS, "a setting goes into its pooling_params"),
    **dict.fromkeys(
        ("image", "images", "audio", "video", "multi_modal_data"),
        "only text is taken: pictures, sound and film are for task: generate",
    ),
    "sampling_params": "nothing is generated; settings of these tasks are pooling_params",
}
OF_GENERATE = ("output_schema", "reask", "rollout")  # of a workload; each would have no effect
# Of engine_kwargs: what makes an engine generate.
GENERATING = ("speculative_config", "spec_method", "spec_model", "reasoning_parser", "tool_parser")
# Of a row, beside its token ids. lengths: of several prompts. second_texts: see Pooling. is_list: its answer is one.
OWN = ("pooling_params", "model", "lengths", "second_texts", "truncated", "is_list")


class Pooled(Task):
    """convert: what vLLM makes of a model that generates. size: numbers in each vector, once the model is known."""

    pools = True
    settings_key = "pooling_params"
    fields = TASK_FIELDS
    name: ClassVar[str]
    keys: ClassVar[tuple[str, ...]] = PROMPTS
    convert = "embed"
    size: Optional[int] = None

    def engine_settings(self, engine_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        given = engine_kwargs.get("convert") or "auto"
        return {"runner": "pooling", "convert": self.convert if given == "auto" else given}

    def check_engine(self, engine_kwargs: Mapping[str, Any], source: str) -> None:
        fits = {"runner": ("auto", "pooling"), "convert": ("auto", "none", *self.converts)}
        for key, values in fits.items():
            if (given := engine_kwargs.get(key)) is not None and given not in values:
                named = " or ".join(values)
                raise ConfigError(
                    f"{key}: {given} under engine_kwargs in {source} contradicts task: {self.name}, for which it is "
                    f"{named}. Leave it out: it follows from the task."
                )
        if key := next((key for key in GENERATING if engine_kwargs.get(key)), ""):
            raise ConfigError(
                f"{key} under engine_kwargs in {source} is for what a model generates, and task: {self.name} generates "
                "nothing. Remove it."
            )

    @property
    def converts(self) -> tuple[str, ...]:
        return (self.convert,)

    def of(self, workload: Any, engine_kwargs: Mapping[str, Any]) -> Pooled:
        cls = type(workload)
        task = copy(self)
        given = getattr(workload, "pooling_params", None)
        task.settings = pooling.settings(given, f"{cls.__name__}.pooling_params", self.name)
        for name in OF_GENERATE:
            if getattr(workload, name, None) not in (None, 0):  # {} is a schema
                raise WorkloadError(
                    f"{cls.__name__} has {name}, which is for task: generate, not {self.name}. Remove it."
                )
        if getattr(workload, "sampling_params", None) not in (None, {}, SAMPLING_PARAMS):
            raise WorkloadError(
                f"{cls.__name__} has sampling_params, but task: {self.name} generates nothing: its settings are "
                f"pooling_params ({', '.join(pooling.known(self.name))})."
            )
        if task.settings.get(TRUNCATE) == -1:
            length = engine_kwargs.get("max_model_len")
            if type(length) is not int or length < 1:
                raise WorkloadError(
                    f"{TRUNCATE}=-1 in {cls.__name__}.pooling_params cuts at max_model_len, which engine_kwargs does "
                    "not set. Set it there, or a number of tokens here."
                )
            task.settings[TRUNCATE] = length
        if getattr(workload, "answers_as_a_server", False):
            from rayllm_batch.tasks.pooled_responses import responses_of  # which travels only with such a workload

            return responses_of(task, cls.__name__)
        return task

    def decides(self, workload: Any) -> dict[str, Any]:
        return {"pooling_params": getattr(workload, "pooling_params", None) or {}}

    def of_model(self, config: Mapping[str, Any], folder: Optional[Path], engine_kwargs: Mapping[str, Any]) -> Pooled:
        overrides = engine_kwargs.get("hf_overrides")
        task = copy(self)
        task.learn({**config, **(overrides if isinstance(overrides, dict) else {})}, folder, engine_kwargs)
        return task

    def learn(self, config: Mapping[str, Any], folder: Optional[Path], engine_kwargs: Mapping[str, Any]) -> None:
        """Set what follows from the model. config: of config.json, hf_overrides over it. Raises ConfigError."""
        raise NotImplementedError

    @property
    def answer_columns(self) -> dict[str, pa.DataType]:
        raise NotImplementedError

    @property
    def schema(self) -> pa.Schema:
        columns = {**self.answer_columns, "num_input_tokens": pa.int64()}
        if TRUNCATE in self.settings:
            columns["truncated"] = pa.bool_()
        return pa.schema([*columns.items(), ("error", pa.string())])

    @property
    def numbers(self) -> int:  # type: ignore[override]
        return self.size or 0

    def parse(self, parse_row: ParseRow, row: dict[str, Any]) -> dict[str, Any]:
        returned = parse_row(row)
        given = dict(returned) if isinstance(returned, dict) else {}
        known = (*self.keys, "pooling_params", "model")
        unknown = next((key for key in given if key not in known), None)
        if not given.keys() & set(self.keys):
            hint = "" if unknown is None else f" {self._no_effect(unknown, known)}"
            raise TypeError(f"parse_row must return {self.wanted}, but returned {shown(returned)}.{hint}")
        if unknown is not None:
            raise TypeError(
                f"parse_row must return no other keys than {', '.join(known)}. {self._no_effect(unknown, known)}"
            )
        parsed = self.parse_texts(given)
        if (model := given.get("model")) is not None:
            if not isinstance(model, str) or not model:
                raise TypeError(f'parse_row\'s "model" must be the name of a LoRA adapter, but is {shown(model)}')
            parsed["model"] = model
        if own := pooling.settings(given.get("pooling_params"), "this row's pooling_params", self.name):
            self._check_own(own)
            parsed["pooling_params"] = own
        return parsed

    wanted = '{"prompt": "..."}, {"messages": [...]} or {"prompt_token_ids": [...]}'

    def parse_texts(self, given: dict[str, Any]) -> dict[str, Any]:
        """What of it is to be read by the model, checked."""
        if len(given.keys() & set(PROMPTS)) > 1:
            raise TypeError(f"parse_row must return one of {', '.join(PROMPTS)}, but returned {shown(given)}")
        if "prompt_token_ids" in given:
            return {"prompt_token_ids": checked_ids(given["prompt_token_ids"])}
        if "messages" in given:
            return {"messages": checked_messages(given["messages"])}
        return {"prompt": checked_text(given["prompt"], "prompt")}

    def _check_own(self, own: Mapping[str, Any]) -> None:
        for key in ("dimensions", TRUNCATE):
            if key in own and (key not in self.settings or key == "dimensions" and own[key] != self.settings[key]):
                raise WorkloadError(
                    f"{key} in this row's pooling_params changes the output's columns, which the workload's "
                    "pooling_params decide: set it there, for all rows."
                )
        if own.get(TRUNCATE) == -1:
            raise WorkloadError(f"{TRUNCATE} in this row's pooling_params must be a number of tokens, given -1.")

    def _no_effect(self, key: Any, known: tuple[str, ...]) -> str:
        why = NOT_TAKEN.get(key)
        return f"{key!r} would have no effect" + (f": {why}." if why else f".{did_you_mean(str(key), known)}")

    def pairs(self) -> bool:
        """Whether the model reads a query and a document as one prompt."""
        return False

    def own_text(self, parsed: Mapping[str, Any]) -> Optional[str]:
        """With it, what the CPU stage has found out of the prompts of a row's token ids."""
        own = {key: parsed[key] for key in OWN if parsed.get(key)}
        return json.dumps(own, sort_keys=True) if own else None

    def request(self, prompt_token_ids: list[int], own_text: Optional[str]) -> Request:
        own = json.loads(own_text) if own_text else {}
        assert self.size is not None, "what the model is like is known before a row is asked"
        lengths = tuple(own.get("lengths") or [len(prompt_token_ids)])
        asked = Pooling(self.pooling_task, self.size, lengths, tuple(own.get("second_texts") or ()))
        settings = {**self.settings, **(own.get(self.settings_key) or {})}
        settings.pop(TRUNCATE, None)
        return Request(prompt_token_ids, settings, own.get("model"), pooling=asked)

    @property
    def pooling_task(self) -> str:
        return self.convert

    def was_truncated(self, own_text: Optional[str]) -> bool:
        return own_text is not None and bool(json.loads(own_text).get("truncated"))

    def columns(self, answer: Answer) -> dict[str, Any]:
        values = self.values(answer) if answer.reply is not None and answer.error is None else {}
        found = {name: values.get(name) for name in self.answer_columns}
        return {**found, "truncated": answer.is_truncated} if TRUNCATE in self.settings else found

    def values(self, answer: Answer) -> dict[str, Any]:
        """Of the answer columns; of a row that has its vectors."""
        raise NotImplementedError

    def is_repeatable(self, request: Request) -> bool:
        return True

    def lengths_of_prompts(self, own_text: Optional[str], tokens: int) -> list[int]:
        return (json.loads(own_text) if own_text else {}).get("lengths") or [tokens]


def checked_text(given: Any, key: str) -> str:
    if not isinstance(given, str) or not given:
        raise TypeError(f'parse_row\'s "{key}" must be a text that is not empty, but is {shown(given)}')
    return given
