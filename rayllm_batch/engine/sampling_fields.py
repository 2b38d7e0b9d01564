"""Which sampling parameters exist: vLLM's `SamplingParams`, read without importing vLLM. See engine_args.py."""

from __future__ import annotations

from typing import NamedTuple, Optional

from rayllm_batch.engine.engine_args import installed_classes
from rayllm_batch.engine.vllm_fields import REPETITION_FIELDS, SAMPLING_FIELDS, STRUCTURED_FIELDS
from rayllm_batch.engine.vllm_newest_fields import MORE_REPETITION_FIELDS, MORE_SAMPLING_FIELDS, MORE_STRUCTURED_FIELDS


class Fields(NamedTuple):
    """Names and types, as text: of SamplingParams, of its `repetition_detection` and its `structured_outputs`."""

    sampling: dict[str, str]
    repetition: dict[str, str]
    structured: dict[str, str]


class Here:
    """What this process has read. Sent to a worker it is empty: that one's node may have another vLLM, or none."""

    fields: Optional[Fields] = None

    def __reduce__(self) -> tuple:
        return Here, ()


CLASSES = ("SamplingParams", "RepetitionDetectionParams", "StructuredOutputsParams")
SHIPPED = Fields(
    {**SAMPLING_FIELDS, **MORE_SAMPLING_FIELDS},
    {**REPETITION_FIELDS, **MORE_REPETITION_FIELDS},
    {**STRUCTURED_FIELDS, **MORE_STRUCTURED_FIELDS},
)
here = Here()


def installed_fields() -> Optional[Fields]:
    """Those of the installed vLLM; None where it is not installed, or its source has changed shape."""
    found = Fields(*installed_classes("sampling_params.py", *CLASSES))
    return found if found.sampling and found.structured else None


def known_fields() -> Fields:
    """The installed vLLM's, else all of the versions that were tried: an engine's own node may have any of them."""
    if here.fields is None:
        here.fields = installed_fields() or SHIPPED
    return here.fields
