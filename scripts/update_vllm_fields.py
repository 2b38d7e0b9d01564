"""Write which settings the installed vLLM has, when the version that is pinned changes.

python scripts/update_vllm_fields.py                             rayllm_batch/engine/vllm_fields.py
.venv.newest/bin/python scripts/update_vllm_fields.py --newest   rayllm_batch/engine/vllm_newest_fields.py: what it has more
"""

import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from rayllm_batch.engine import engine_args, sampling_fields
from rayllm_batch.engine.vllm_versions import vllm_version

ROOM = Path(__file__).parent.parent / "rayllm_batch" / "engine"


def main() -> None:
    engine, sampling = engine_args.installed_fields(), sampling_fields.installed_fields()
    if engine is None or sampling is None:
        raise SystemExit("vLLM is not installed here, or its arg_utils.py or sampling_params.py has changed shape.")
    newest, release = "--newest" in sys.argv[1:], vllm_version().split("+")[0]
    if newest:
        from rayllm_batch.engine import vllm_fields as tested

        engine = tuple(name for name in engine if name not in tested.ENGINE_FIELDS)
        of_tested = (tested.SAMPLING_FIELDS, tested.REPETITION_FIELDS, tested.STRUCTURED_FIELDS)
        sampling = sampling_fields.Fields(*map(_more, sampling, of_tested))
        about = f"Fields that vLLM {release} has beside those of vllm_fields.py, for where vLLM is not installed."
    else:
        about = f"Field names of vLLM {release}, for checks where vLLM is not installed."
    more = "MORE_" if newest else ""
    target = ROOM / ("vllm_newest_fields.py" if newest else "vllm_fields.py")
    target.write_text(
        f'"""{about}\n\nWritten by scripts/update_vllm_fields.py; not edited by hand.\n"""\n\n'
        + f'{"NEWEST_" if newest else ""}RELEASE = "{release}"\n\n'
        + _tuple(f"{more}ENGINE_FIELDS", engine)
        + "\n# Of SamplingParams and of what stands in it, with their types.\n"
        + "\n".join(
            _dict(f"{more}{name.upper()}_FIELDS", fields, by_type=name == "sampling")
            for name, fields in sampling._asdict().items()
        )
    )
    print(f"{target}: {len(engine)} engine fields and {len(sampling.sampling)} sampling fields of vLLM {release}")


def _more(now: dict[str, str], then: dict[str, str]) -> dict[str, str]:
    return {name: kind for name, kind in now.items() if then.get(name) != kind}


def _dict(name: str, fields: dict[str, str], by_type: bool) -> str:
    """by_type: a line has as many names of one type as find room; else their order stays."""
    lines = [f'    "{key}": "{kind}",\n' for key, kind in fields.items()]
    if by_type:
        lines = []
        for kind in dict.fromkeys(fields.values()):
            keys = " ".join(key for key in fields if fields[key] == kind)
            for some in textwrap.wrap(keys, 84 - len(kind)):
                one = f'    "{some}": "{kind}",\n'
                lines.append(f'    **dict.fromkeys("{some}".split(), "{kind}"),\n' if " " in some else one)
    return f"{name}: dict[str, str] = {{\n{''.join(lines)}}}\n" if lines else f"{name}: dict[str, str] = {{}}\n"


def _tuple(name: str, values: Iterable[str]) -> str:
    words = textwrap.fill(" ".join(values), 120, initial_indent="    ", subsequent_indent="    ")
    return f'{name} = tuple(\n    """\n{words}\n""".split()\n)\n'


if __name__ == "__main__":
    main()
