"""Whether the other nodes have what they will look for on disks: the model's files, those of the data, the answers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Optional

from rayllm_batch.cluster.nodes import ANY_SIZE, ask, engine_nodes, here, names_of, reading_nodes, unlike
from rayllm_batch.config import EngineConfig
from rayllm_batch.errors import ClusterError, DatasetError, OutputError, RayLLMBatchError
from rayllm_batch.model.files import files_to_skip
from rayllm_batch.model.hub import is_local
from rayllm_batch.output.folder import OutputFolder

BESIDE = ("*.md", "LICENSE*", ".*")  # of a model's folder, what decides no answer


def missing_on_nodes(
    config: EngineConfig, data: Mapping[str, int], folder: Optional[OutputFolder]
) -> list[RayLLMBatchError]:
    """What the other nodes lack, an error a kind; all of it in one question to each.

    data: files on this machine's disk that tasks on any node will read; by their paths, their sizes in bytes, which is
    all that is compared of a file. folder: on the driver's disk alone, the answers could not be read by the others, nor
    could another node continue the run.
    """
    reading = names_of(reading_nodes())
    others = {node: name for node, name in {**reading, **names_of(engine_nodes(config))}.items() if node != here()}
    if not others:
        return []
    model, sign = _model_files(config), ""
    if folder is not None and folder.place.is_local:  # a new name: of an old one NFS may remember that it was not there
        sign = folder.place.inside(f"sign-{uuid.uuid4().hex[:8]}")
        folder.place.write(sign, b"")
    try:
        found = ask(others, unlike, {**model, **data, **({sign: 0} if sign else {})}, about="which files it has")
    except ClusterError as error:
        return [error]
    finally:
        if sign:
            os.unlink(sign)
    problems: list[RayLLMBatchError] = []
    if lacking := {others[node]: paths for node in found if (paths := _of(found[node], model))}:
        problems.append(
            ClusterError(
                f"{_listed(f'the model {config.model_id!r}', lacking)} Rows are tokenised and engines start on any "
                "node: have the folder at this path on each (a copy, or NFS), or give the model's name on the Hub."
            )
        )
    if lacking := {others[node]: paths for node in found if node in reading and (paths := _of(found[node], data))}:
        problems.append(
            DatasetError(
                f"{_listed('the data', lacking)} Any node may read them: share their folder (NFS), or put them on a "
                "storage that all nodes reach (s3://, gs://)."
            )
        )
    if blind := [others[node] for node in found if node in reading and sign in found[node]]:
        assert folder is not None
        problems.append(
            OutputError(
                f"Node(s) {', '.join(blind)} do not see the output folder {folder.given!r}: it is on the disk of this "
                "machine alone. Give a folder that all nodes share (NFS), or a URI (s3://, gs://)."
            )
        )
    return problems


def _model_files(config: EngineConfig) -> dict[str, int]:
    """Of the folders of the model, its tokenizer and its adapters, the files that are read, and their bytes."""
    if config.engine_kind.tokenizes:
        return {}
    kwargs = config.engine_kwargs
    files: dict[str, int] = {}
    load_format = kwargs.get("load_format") or "auto" if config.engine_kind.needs_model else "dummy"
    for given in filter(None, (config.model_id, kwargs.get("tokenizer"), config.dynamic_lora_loading_path)):
        if not is_local(given) or "://" in given:
            continue
        folder = Path(given).expanduser()
        names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
        skip = [*files_to_skip(names, load_format), *BESIDE]
        read = [folder / name for name in names if not any(fnmatch(name, pattern) for pattern in skip)]
        # Of one with folders of adapters, only whether it is there.
        files |= {str(path): path.stat().st_size for path in read} or {str(folder): ANY_SIZE}
    return files


def _of(lacks: list[str], files: Collection[str]) -> list[str]:
    return [path for path in lacks if path in files]


def _listed(what: str, lacking: Mapping[str, list[str]]) -> str:
    first = next(iter(lacking.values()))
    more = f" and {len(first) - 1} more" if first[1:] else ""
    return f"Node(s) {', '.join(lacking)} lack files of {what}, or have others of that name: {first[0]}{more}."
