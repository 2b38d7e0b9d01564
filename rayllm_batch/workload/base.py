"""A workload: which rows to read, how a row becomes a chat, and how to sample the answer."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import KW_ONLY, MISSING, Field, InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, Optional

from rayllm_batch.errors import WorkloadError

if TYPE_CHECKING:
    import ray.data


@dataclass(frozen=True)
class Required:
    """The default of a field that has none: after fields with defaults, such as this package's, Python wants one."""

    name: str

    def __call__(self) -> Any:
        raise WorkloadError(
            f"The workload needs {self.name}=..., a field without a default: give it where the workload is made "
            f"(on the command line: -w {self.name}=...), or give the field a default."
        )


@dataclass
class ChatWorkloadBase:
    """Subclass it, write `parse_row`, and hand an instance to `RayLLMBatch`.

    dataset_file:     what `load_dataset` reads: a jsonl, json, csv or parquet file, a folder or a glob of them;
                      local, `s3://...`, `gs://...` or `hf://datasets/...`.
    dataset_fraction: up to 1 the share of the rows to run, above 1 their number. The first rows are taken, so
                      that no more is read than needed and a second run gets the same ones. The runner applies
                      it, whatever `load_dataset` does.
    bad_lines:        "raise", or "keep": a line of a JSON or CSV dataset_file that cannot be read is a failed row,
                      whose `error` names file and line.
    dataset_encoding: of a JSON or CSV dataset_file that is not UTF-8, such as "cp1252"; UTF-16 with a byte order mark
                      is known without it.
    sampling_params:  keyword arguments of vLLM's `SamplingParams`; without `max_tokens` an answer may fill the
                      model's context. `n` above 1 adds the columns `generated_texts` and `finish_reasons`, `logprobs` and
                      `prompt_logprobs` those of their names.
    output_schema:    the form that each answer must have, for a column `parsed`: a pydantic model, a JSON schema, or a list
                      of texts to choose from. {}: any JSON, as text, and rows may bring an `output_schema` each.
    reask:            how often an answer that has not that form is asked for again, with what is wrong with it.

    A subclass may change the defaults with or without `@dataclass` and type hints, and have fields of its own, also
    without a default; an instance is checked when the run starts.
    """

    dataset_file: Optional[str] = None
    dataset_fraction: float = 1.0
    sampling_params: dict[str, Any] = field(default_factory=lambda: {"max_tokens": 150, "temperature": 0.0})
    bad_lines: str = field(default="raise", kw_only=True)
    dataset_encoding: Optional[str] = field(default=None, kw_only=True)
    output_schema: Any = field(default=None, kw_only=True)
    reask: int = field(default=0, kw_only=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in reversed(cls.__mro__[1:]):  # a base that forgot @dataclass too, and was never instantiated
            if issubclass(base, ChatWorkloadBase) and "__dataclass_fields__" not in base.__dict__:
                dataclass(base)
        annotations = cls.__dict__.get("__annotations__", {})
        inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__dataclass_fields__", {})}
        for name, value in list(cls.__dict__.items()):
            if name in inherited and name not in annotations:  # `dataset_file = "..."` without a type hint
                annotations[name] = Any
            if name in annotations and isinstance(value, (dict, list, set)):  # @dataclass refuses mutable defaults
                setattr(cls, name, field(default_factory=functools.partial(copy.deepcopy, value)))
        for name, kind in annotations.items():
            _let_lack_a_default(cls, name, kind)
        cls.__annotations__ = annotations

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # A subclass that forgot @dataclass would get its base's __init__, which resets every changed default.
        if "__dataclass_fields__" not in cls.__dict__:
            dataclass(cls)
        workload = super().__new__(cls)
        # For a subclass whose own __init__ leaves out super().__init__().
        for spec in cls.__dataclass_fields__.values():
            if callable(spec.default_factory) and not isinstance(spec.default_factory, Required):
                setattr(workload, spec.name, spec.default_factory())
        return workload

    def load_dataset(self) -> ray.data.Dataset:
        """The rows to run, as a Ray Dataset. Override it to read from anywhere else, or otherwise.

        CSV columns are text unless you return, with what is in rayllm_batch.workload,
        `read_dataset_file(self.dataset_file, column_types={"age": "int64"})`.
        """
        if not self.dataset_file:
            raise WorkloadError(
                f"{type(self).__name__} has no rows to read: set dataset_file=..., or write load_dataset(self) "
                "so that it returns a ray.data.Dataset."
            )
        # Here: parse_row's class travels to every task, and would take all of the reader along.
        from rayllm_batch.data.dataset_file import read_dataset_file

        return read_dataset_file(self.dataset_file, bad_lines=self.bad_lines, encoding=self.dataset_encoding)

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The chat of one row: `{"messages": [{"role": "user", "content": "..."}, ...]}`.

        Or `{"prompt_token_ids": [...]}`, a prompt that is tokenized already: the model gets these ids and nothing else,
        no chat template, no special tokens. A `sampling_params` dict beside either goes over the workload's own for
        this row alone (a None in it is not given), and `model` names a LoRA adapter. Any other key is that row's error,
        and so is an exception here: both end up in its `error` column.

        A message's content is text, or a list of text parts as the OpenAI API has them, which are joined a line each.
        Where the last message is the assistant's, the answer continues it.
        """
        raise WorkloadError(
            f"{type(self).__name__} does not say how a row becomes a chat: write "
            'parse_row(self, row) returning {"messages": [{"role": "user", "content": ...}]}.'
        )


def _let_lack_a_default(cls: type, name: str, kind: Any) -> None:
    """Prepare an annotated name of a subclass for @dataclass, which comes after."""
    own = cls.__dict__.get(name, MISSING)
    of_its_own = isinstance(own, Field) and own.default is MISSING and own.default_factory is MISSING
    if not of_its_own and (own is not MISSING or hasattr(cls, name)):  # it has a default, or inherits one
        return
    # With `from __future__ import annotations` they are texts.
    if kind is KW_ONLY or any(word in str(kind) for word in ("ClassVar", "KW_ONLY")):
        return
    spec = own if of_its_own else field()
    bases = (getattr(base, "__dataclass_fields__", {}) for base in cls.__mro__[1:])
    inherited = next((fields[name] for fields in bases if name in fields), None)
    if isinstance(kind, InitVar) or "InitVar" in str(kind):
        spec.kw_only = True  # it takes no factory
    elif inherited is not None and (inherited.default is not MISSING or inherited.default_factory is not MISSING):
        spec.default, spec.default_factory = inherited.default, inherited.default_factory
    elif spec.init:
        spec.default_factory = Required(name)
    setattr(cls, name, spec)


def check_workload(workload: Any) -> None:
    """Raise WorkloadError for an instance that cannot run, before anything is started."""
    if isinstance(workload, type):
        raise WorkloadError(f"workload= needs an instance: write {workload.__name__}() with parentheses.")
    name = type(workload).__name__
    for method in ("load_dataset", "parse_row"):
        if not callable(getattr(workload, method, None)):
            raise WorkloadError(
                f"workload= must have {method}(), as a subclass of rayllm_batch.workload.ChatWorkloadBase has; "
                f"given a {name}."
            )
    if getattr(type(workload), "parse_row", None) is ChatWorkloadBase.parse_row:
        ChatWorkloadBase.parse_row(workload, {})  # raises, with the next step
    fraction = getattr(workload, "dataset_fraction", 1.0)
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < math.inf:
        what = f"a share of the rows (0 < x <= 1) or a number of rows (above 1), given {fraction!r}"
        raise WorkloadError(f"{name}.dataset_fraction must be {what}.")
