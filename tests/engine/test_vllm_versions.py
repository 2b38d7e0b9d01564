"""What this library takes from inside vLLM is where vllm_versions.py looks for it, in whichever vLLM is installed."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from ray import cloudpickle

from rayllm_batch.engine import back_off, vllm_versions
from rayllm_batch.engine.vllm_versions import PLACES, OtherVLLM, part, require

ROOT = Path(__file__).parents[2]
PUBLIC = {"vllm", "vllm.sampling_params", "vllm.lora.request"}  # as vLLM's documentation names them
# Where vLLM says what back_off.py reads.
SPEAKERS = (
    "v1/core/kv_cache_utils.py",
    "v1/worker/gpu_worker.py",
    "v1/worker/utils.py",
    "v1/worker/gpu_model_runner.py",
    "v1/worker/gpu/model_runner.py",
)
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


@pytest.mark.vllm
@needs_vllm
def test_all_is_where_it_is_looked_for() -> None:
    """A vLLM for which this fails has something elsewhere: one more place in PLACES."""
    require(*PLACES)
    assert part("UsageContext").LLM_CLASS and issubclass(part("EngineDeadError"), Exception)
    assert vllm_versions.starter_of_engines() is not None, "engines are forked where that is faster"
    assert all(importlib.util.find_spec(name) for name in vllm_versions.IMPORTED_BY_ENGINES)
    assert isinstance(vllm_versions.most_bad_words_tokens(), int)


def test_a_part_has_the_first_place_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a_vllm", "a_vllm.old"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["a_vllm.old"].Piece = here = object()  # type: ignore[attr-defined]
    monkeypatch.setitem(vllm_versions.PLACES, "Piece", ("a_vllm.new", "a_vllm.newer.still", "a_vllm", "a_vllm.old"))
    assert part("Piece") is here


def test_what_is_missing_is_named_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"Fraction": ("fractions",), "Piece": ("no_such", "fractions"), "Wheel": ("json",)}
    monkeypatch.setattr(vllm_versions, "PLACES", places)
    with pytest.raises(OtherVLLM) as caught:
        require(*places)
    assert "it has no Piece in no_such or fractions; no Wheel in json." in str(caught.value)
    assert "unlike those that were tried (0.26.0, 0.29.0, 0.32.0)" in str(caught.value)


def test_it_is_said_where_this_package_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a worker's node: what a run needs there is sent by value."""
    cloudpickle.register_pickle_by_value(sys.modules["rayllm_batch"])
    monkeypatch.setitem(PLACES, "Piece", ("no_such",))
    (tmp_path / "sent").write_bytes(cloudpickle.dumps(require))
    code = (
        "import pickle, sys; sys.modules['rayllm_batch'] = None\n"
        "try:\n    pickle.load(open('sent', 'rb'))('Piece')\nexcept ImportError as error:\n    print(error)"
    )
    there = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "it has no Piece in no_such. Install one of those." in there.stdout


def test_what_vllm_needs_and_is_not_installed_is_no_part_that_moved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "needs_another.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(vllm_versions.PLACES, "Piece", ("needs_another",))
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        part("Piece")


def test_nothing_else_imports_what_is_inside_of_vllm() -> None:
    taken = {}
    for path in (ROOT / "rayllm_batch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if inside := [name for name in names if name.split(".")[0] == "vllm" and name not in PUBLIC]:
                taken[path.name] = inside
    assert taken == {}


@needs_vllm
@pytest.mark.parametrize(
    "words",
    [
        *back_off.NO_ROOM_FOR_CACHE.pattern.split("|"),
        back_off.CACHE_GAP,
        back_off.LESS_IS_FREE,
        back_off.WEIGHTS,
        back_off.CACHE_IS_THERE,
        back_off.CHANGED_WHILE_MEASURED,
        back_off.WARMING_UP_SAMPLER,
        "out of memory",
    ],
)
def test_vllm_still_says_what_is_read(words: str | re.Pattern[str], said_by_vllm: list[str]) -> None:
    """By back_off.py, in an engine's last words: a vLLM that words it differently is not started again with less."""
    assert any(re.search(words, text) for text in said_by_vllm)


@pytest.fixture(scope="module")
def said_by_vllm() -> list[str]:
    """Every text in those files, with a number in place of what is put in."""
    spec = importlib.util.find_spec("vllm")
    assert spec and spec.submodule_search_locations
    texts = []
    for speaker in SPEAKERS:
        path = Path(spec.submodule_search_locations[0]) / speaker
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else ():
            pieces = node.values if isinstance(node, ast.JoinedStr) else [node]
            if not isinstance(node, (ast.JoinedStr, ast.Constant)):
                continue
            text = "".join(str(piece.value) if isinstance(piece, ast.Constant) else "1.5" for piece in pieces)
            texts.append(re.sub(r"%(\.\d+)?[sdf]", "1.5", text))
    return texts
