"""README.md of a dataset of answers on the Hub: metadata with which `datasets` loads it, and how they were made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Optional

import yaml

from rayllm_batch._version import __version__
from rayllm_batch.engine.vllm_versions import vllm_version
from rayllm_batch.errors import OutputError
from rayllm_batch.model.hub import is_local
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.part_file import readable

if TYPE_CHECKING:
    import pyarrow as pa

    from rayllm_batch.config import EngineConfig

NAME = "README.md"
_METADATA = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


def told(config: EngineConfig, job: Job, rows: int, failed: int, as_text: Sequence[str] = ()) -> dict[str, str]:
    """What the card says of the answers, by name; no secret is in it (see Job)."""
    settings = {
        name: value for name, value in job.settings.items() if value not in ("None", "null", "{}", "the model's own")
    }
    model, task = settings.pop("model_id"), settings.pop("task", config.task)
    revision = config.engine_kwargs.get("revision") or _commit_of(config.model_id) or "not known"
    found = {
        "model": model,
        **({} if is_local(config.model_id) else {"revision": revision}),
        "task": task,
        "rows": f"{rows:,}",
        "rows with an error": f"{failed:,}",
        **settings,
        "rayllm_batch": __version__,
        "vLLM": (vllm_version() or "not on the driver's node") if config.engine_kind.needs_vllm else "not used",
        "Ray": metadata.version("ray"),
    }
    return {**found, "columns that are JSON text": ", ".join(as_text)} if as_text else found


def written(before: str, name: str, paths: Sequence[str], told: Mapping[str, str], schema: Optional[pa.Schema]) -> str:
    """The card, of the one of before: what people have written into that stays, its metadata among it.

    name: of the configuration that these files are, of which a repository may have several. paths: globs of the files.
    schema: where the files' own ones differ. Raises OutputError for metadata that is no YAML.
    """
    data, text = parted(before)
    configs, infos = _others(data, "configs", name), _others(data, "dataset_info", name)
    data["configs"] = [*configs, {"config_name": name, "data_files": [{"split": "train", "path": list(paths)}]}]
    if schema is not None and (features := _features(schema)):
        infos.append({"config_name": name, "features": features})
    data = {key: value for key, value in {**data, "dataset_info": infos}.items() if value != []}
    if not before.strip():
        data["tags"] = ["rayllm_batch", "synthetic"]
        text = "# Answers of a language model\n"
    begin, end = f"<!-- rayllm_batch: {name} -->", f"<!-- /rayllm_batch: {name} -->"
    rows = [f"| {_cell(key)} | {_cell(value)} |" for key, value in told.items()]
    section = "\n".join([begin, "| | |", "|---|---|", *rows, end])
    first, last = text.find(begin), text.find(end)
    is_known = 0 <= first < last
    text = text[:first] + section + text[last + len(end) :] if is_known else f"{text.rstrip()}\n\n{section}\n"
    head = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{head}---\n\n{text.lstrip()}"


def parted(card: str) -> tuple[dict[str, Any], str]:
    """Its metadata, and the rest."""
    found = _METADATA.match(card)
    try:
        data = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        data = None
    data = {} if found and data is None and not found[1].strip() else data
    if not isinstance(data, dict):
        raise OutputError(f"The {NAME} of the dataset has metadata that is no YAML. Mend it, or delete the file there.")
    return data, card[found.end() :] if found else card


def _others(data: Mapping[str, Any], key: str, name: str) -> list[Any]:
    given = data.get(key) or []
    several = given if isinstance(given, list) else [given]
    return [one for one in several if not isinstance(one, dict) or one.get("config_name", "default") != name]


def _features(schema: pa.Schema) -> Optional[list[Any]]:
    """As the `datasets` library writes them; None where it is not here, or has no such type."""
    try:
        import datasets

        return datasets.Features.from_arrow_schema(readable(schema))._to_yaml_list()
    except Exception:
        return None


def _commit_of(model_id: str) -> Optional[str]:
    """Of a model of the Hub that is in this machine's cache."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model_id, "config.json")
        return found.split("/snapshots/")[1].split("/")[0] if isinstance(found, str) else None
    except Exception:  # a folder's name is no id
        return None


def _cell(value: str) -> str:
    text = " ".join(str(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
