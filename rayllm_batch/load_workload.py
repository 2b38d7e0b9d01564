"""The workload that a command line names, made; and where in a user's code an error comes from."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from rayllm_batch.errors import RayLLMBatchError, WorkloadError, did_you_mean, one_line
from rayllm_batch.installed import is_installed

FORMS = "FILE.py:CLASS or MODULE:CLASS, such as jobs/tickets.py:Triage or rayllm_batch:CNNDailySummary"
# Names of a workload's fields in other libraries, in earlier vLLMs and in the OpenAI API, or where they are looked for.
_FORM = "choice choices guided_choice guided_json json_schema labels response_format schema structured_outputs".split()
_TABLE = "csv data data_file dataset dataset_path file input input_file path rows table".split()
_ROWS = "dataset_limit fraction head limit max_rows max_samples num_rows num_samples sample".split()
_SETTINGS = "max_completion_tokens max_new_tokens max_tokens min_p n seed stop temperature top_k top_p".split()
OTHER_NAMES = {
    **dict.fromkeys(_FORM, ("output_schema", "output_schema, such as -w 'output_schema=[yes, no]' or a JSON schema")),
    **dict.fromkeys(_TABLE, ("dataset_file", "dataset_file, or --input")),
    **dict.fromkeys(_ROWS, ("dataset_fraction", "dataset_fraction: up to 1 a share of the rows, above 1 their number")),
    **dict.fromkeys(_SETTINGS, ("sampling_params", "one of sampling_params, which -s sets")),
}
_folders: set[str] = set()  # of the files that were loaded by their path
_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep


class _Values(yaml.SafeLoader):
    """YAML 1.2's values: in 1.1's, `no` is false, 010 is 8, 12:30 is 750, and 2024-01-01 is no text."""


_Values.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _Values.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first))


def load_workload(spec: str, fields: Sequence[str], **given: Any) -> Any:
    """The instance that FILE.py:CLASS or MODULE:CLASS and the KEY=VALUE texts describe. Raises WorkloadError.

    given: fields that come from options of their own.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name or name.endswith(".py"):
        raise WorkloadError(f"--workload must be {FORMS}, given {spec!r}.")
    try:
        module = _of_file(place, spec) if place.endswith(".py") or os.sep in place else _of_name(place, spec)
    except (KeyboardInterrupt, RayLLMBatchError):
        raise
    except BaseException as error:  # a SystemExit too: it is the module's, not ours
        why = f"{one_line(error)}{raised_at(error)}"
        raise WorkloadError(f"--workload {spec}: {place} cannot be imported: {why}.") from None
    cls = getattr(module, name, None)
    if not isinstance(cls, type):
        classes = [name for name, kind in vars(module).items() if isinstance(kind, type) and hasattr(kind, "parse_row")]
        raise WorkloadError(f"--workload {spec}: {place} has no class {name!r}.{_nearest(name, classes)}")
    hints = [hint for base in cls.__mro__ for hint in vars(base).get("__annotations__", {}).items()]
    texts = [field for field, kind in hints if kind in (str, "str")]
    return made(cls, {**pairs(fields, "-w", texts), **given})


def made(cls: type, given: dict[str, Any]) -> Any:
    """An instance. Raises WorkloadError."""
    try:
        return cls(**given)
    except RayLLMBatchError:
        raise
    except Exception as error:
        known = getattr(cls, "__dataclass_fields__", {})
        wrong = [key for key in given if key not in known] if isinstance(error, TypeError) else []
        hint = f" Its fields: {', '.join(known)}.{_right_name(wrong[0], known)}" if known and wrong else ""
        said = error if isinstance(error, TypeError) else one_line(error)
        options = [f"{key} ({'--input or ' if key == 'dataset_file' else ''}-w)" for key in given]
        raise WorkloadError(
            f"{cls.__name__} cannot be made with {', '.join(options) or 'nothing'}: {said}{raised_at(error)}.{hint}"
        ) from None


def _right_name(name: str, known: Collection[str]) -> str:
    field, words = OTHER_NAMES.get(name.lower(), ("", ""))
    return f" {name} is {words}." if field in known else did_you_mean(name, known)


def pairs(texts: Sequence[str], option: str, kept: Sequence[str] = ()) -> dict[str, Any]:
    """Of KEY=VALUE, the values YAML without comments. kept: keys of text, where 1.10, true and [x] are text too.

    Raises WorkloadError.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            example = "dataset_file=rows.jsonl" if option == "-w" else "max_tokens=100"
            raise WorkloadError(f"{option} must be KEY=VALUE, such as {option} {example}, given {text!r}.")
        if key in found:
            raise WorkloadError(f"{option} {key}=... is given twice. Give one of them.")
        try:
            found[key] = yaml.load(value, _Values)
            node = yaml.compose(value, _Values)
            empty = node is None and not value.strip()
        except Exception:  # not all are YAMLError: `!!timestamp x`
            raise WorkloadError(
                f"{option} {key}: the value is not valid YAML: {value!r}. Text can stand in quotes: '{key}=\"...\"'."
            ) from None
        is_text = node is None or isinstance(found[key], str) or key in kept and found[key] is not None
        if is_text and not getattr(node, "style", None) and value.lstrip()[:1] not in ("!", "&"):
            found[key] = value.strip()  # where YAML would see a comment in "C #", for a text "Note: x" and [x] too
        if empty:
            raise WorkloadError(
                f"{option} {key}= has no value (a variable of the shell that is empty, perhaps), given {value!r}. "
                f"Write {key}=null for none, '{key}=\"\"' for empty text, '{key}=\"\\n\"' for a new line."
            )
    return found


def beside() -> list[ModuleType]:
    """The modules that lie beside workloads loaded by their path, where workers of a running cluster do not look."""
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        its_own = name != "__main__" and file.startswith(tuple(_folders)) and not file.startswith(_OURS)
        if its_own and not is_installed(file):
            found.append(module)
    return found


def raised_at(error: BaseException) -> str:
    """` (tickets.py, line 4)`, the last place in the user's own code; "" where none is known."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    frames = [frame for frame in frames if not frame[0].startswith((_OURS, "<frozen")) and not is_installed(frame[0])]
    if isinstance(error, SyntaxError) and error.filename:
        frames = [] if f"line {error.lineno}" in str(error) else [(error.filename, error.lineno)]
    return f" ({os.path.basename(frames[-1][0])}, line {frames[-1][1]})" if frames else ""


def _of_file(place: str, spec: str) -> ModuleType:
    path = Path(place if place.endswith(".py") else place + ".py").expanduser().resolve()
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.py"))
        raise WorkloadError(f"--workload {spec}: there is no file {str(path)!r}.{_nearest(path.name, beside)}")
    # What lies beside it can be imported, here and in the workers of a Ray that this process starts.
    _folders.add(str(path.parent) + os.sep)
    hides = any(map(_hides_another, path.parent.iterdir()))  # email.py: Ray would import it for its own
    _look_in(str(path.parent), last=hides)
    if not hides:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(path.parent), os.environ.get("PYTHONPATH"))))
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    # A file json.py must not take the place of what others import by that name.
    name = f"workload_{path.stem}" if loaded or path.stem in sys.stdlib_module_names else path.stem
    described = importlib.util.spec_from_file_location(name, path)
    assert described is not None and described.loader is not None  # a path that ends in .py has one
    module = sys.modules[name] = importlib.util.module_from_spec(described)
    try:
        described.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _hides_another(path: Path) -> bool:
    """Whether a module of the standard library or of an installed package has this name."""
    if path.suffix != ".py" and not (path / "__init__.py").is_file():
        return False
    try:
        spec = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):
        spec = None
    return path.stem in sys.stdlib_module_names or bool(spec and is_installed(spec.origin or ""))


def _of_name(place: str, spec: str) -> ModuleType:
    _look_in(os.getcwd())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        why = f"{place} needs the module {error.name!r}, which is not installed{raised_at(error)}."
        if error.name and f"{place}.".startswith(f"{error.name}."):
            why = f"there is no module {place!r} (looked from {os.getcwd()})."
        raise WorkloadError(f"--workload {spec}: {why}") from None


def _look_in(folder: str, last: bool = False) -> None:
    if folder not in sys.path:
        sys.path.insert(len(sys.path) if last else 0, folder)


def _nearest(name: str, names: Sequence[str]) -> str:
    return did_you_mean(name, names) or (f" It has: {', '.join(names)}." if names else "")
