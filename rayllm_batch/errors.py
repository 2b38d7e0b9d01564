"""Every error a user of this package can cause. Each text says what was expected, what was given, what to do next.

RayLLMBatchError
    ConfigError
    ClusterError
    DatasetError
    WorkloadError
    OutputError
    EngineError
    RolloutError
    ModelAccessError
        TokenRequiredError
        InvalidTokenError
        GatedModelError
        ModelNotFoundError
        HubUnavailableError
    PreflightError
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class RayLLMBatchError(Exception):
    """Base of all errors raised on purpose; anything else that escapes is a bug of ours."""


class ConfigError(RayLLMBatchError):
    """The engine configuration cannot be read, or holds a key or value that no engine accepts."""


class ClusterError(RayLLMBatchError):
    """The Ray cluster cannot give what the job asks for: GPUs, an accelerator type, CPUs."""


class DatasetError(RayLLMBatchError):
    """The input rows cannot be read."""


class WorkloadError(RayLLMBatchError):
    """The workload is not usable: a wrong field, or a `parse_row` that cannot read the dataset's rows."""


class OutputError(RayLLMBatchError):
    """The output folder cannot be used: it holds another job, is in use, or cannot be written."""


class EngineError(RayLLMBatchError):
    """The inference engine did not start, or died while rows were in flight."""


class Interrupted(BaseException):
    """Raised into a thread of user code that does not come back; its own `except Exception` does not stop it."""


class RolloutError(RayLLMBatchError):
    """A row's `rollout` did not end in its bounds, or called `generate` with what it does not take."""


class ModelAccessError(RayLLMBatchError):
    """The model cannot be opened on the Hugging Face Hub. The subclasses say why; `why` is the text without advice."""

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(f"{why} {advice}".rstrip())
        self.why = why


class TokenRequiredError(ModelAccessError):
    """The model is gated or private, and there is no token and nobody to ask for one."""


class InvalidTokenError(ModelAccessError):
    """The Hub does not accept the token."""


class GatedModelError(ModelAccessError):
    """The token is good, but its account has not been granted access to this model."""


class ModelNotFoundError(ModelAccessError):
    """The Hub has no such model, or hides it from this token."""


class HubUnavailableError(ModelAccessError):
    """The Hub could not be reached or answered with an error of its own."""


class PreflightError(RayLLMBatchError):
    """Several things are wrong; `problems` has the error of each: ours, and what the user's own code raised."""

    def __init__(self, problems: list[Exception]) -> None:
        texts = [str(one) if isinstance(one, RayLLMBatchError) else f"{type(one).__name__}: {one}" for one in problems]
        listed = "\n".join(f"  {number}. {text}" for number, text in enumerate(texts, start=1))
        super().__init__(f"{len(problems)} things are to be mended before the run can start:\n{listed}")
        self.problems = problems

    def __reduce__(self) -> tuple[type, tuple[list[Exception]]]:
        return type(self), (self.problems,)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest known name, or an empty string when nothing is near."""
    near = difflib.get_close_matches(str(given), list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def shown(value: object, most: int = 200) -> str:
    """`float: 30.0`: the kind of a value and the value, for an error's text."""
    try:
        text = f"{type(value).__name__}: {value!r}"
    except Exception:  # a user's own class
        text = type(value).__name__
    return text if len(text) <= most else text[:most] + "..."


def is_deep(value: Any, most: int = 100) -> bool:
    """Whether lists and dicts hold each other in more than `most` levels, as where one holds itself."""
    level = {0: value}
    for _ in range(most):
        holders = [one for one in level.values() if isinstance(one, (Mapping, list, tuple))]
        level = {id(inner): inner for one in holders for inner in (one.values() if isinstance(one, Mapping) else one)}
        if not level:
            return False
    return True


def one_line(error: BaseException, most: int = 500, named: bool = True) -> str:
    """Its type and text, as a row's `error` may hold it, or its cause's where it has none. named: with the type."""
    said = next((one for one in (error, error.__cause__) if one is not None and text_of(one)), error)
    text = " ".join((f"{type(said).__name__}: " if named else "").split() + text_of(said).split())
    text = text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot stand in an Arrow column
    return text if len(text) <= most else text[:most] + "..."


def text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's own class, whose text is computed of what is not there
        return ""


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came from, through Ray's layers too."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and not any(cause is one for one in seen):
        seen.append(cause)
        yield cause
        inner = getattr(cause, "cause", None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
