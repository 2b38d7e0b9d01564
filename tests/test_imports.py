"""What importing the package costs, and which way imports may go."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "rayllm_batch").rglob("*.py"))
UTIL = sorted((ROOT / "util").rglob("*.py"))
HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "tokenizers",
    "datasets",
    "ray",
    "pandas",
    "huggingface_hub",
    "IPython",
    "ipywidgets",
    "matplotlib",
)


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after `statement`."""
    code = f"{statement}; import sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
    )


def imported(path: Path) -> list[tuple[str, bool]]:
    """Every module that a file imports, anywhere in it, and whether that happens when the file is imported."""
    found = []

    def walk(node: ast.AST, at_import: bool) -> None:
        for child in ast.iter_child_nodes(node):
            now = at_import and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                now = False
            if isinstance(child, ast.Import):
                found.extend((alias.name, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                found.extend((f"{child.module}.{alias.name}", at_import) for alias in child.names)
            walk(child, now)

    walk(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def test_importing_the_package_is_light() -> None:
    loaded = loaded_by(
        "import rayllm_batch, rayllm_batch.workload, rayllm_batch.workers.prompts, rayllm_batch.workers.replica"
    )
    assert "rayllm_batch" in loaded
    assert not loaded & {*HEAVY, "util"}


def test_the_token_prompt_is_light() -> None:
    assert not loaded_by("from util.utils import prompt_for_hugging_face_token") & {
        "torch",
        "vllm",
        "transformers",
        "ray",
    }


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_package_imports_neither_util_nor_a_front_end(path: Path) -> None:
    assert not {name.split(".")[0] for name, _ in imported(path)} & {"util", "IPython", "ipywidgets", "main", "tests"}


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_modules_are_imported_inside_functions(path: Path) -> None:
    assert not {name for name, at_import in imported(path) if at_import and name.split(".")[0] in HEAVY}


@pytest.mark.parametrize("path", [*PACKAGE, *UTIL], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_projects_internals(path: Path) -> None:
    for name, _ in imported(path):
        top, *rest = name.split(".")
        if top not in ("rayllm_batch", "util"):
            assert not any(part.startswith("_") and not part.startswith("__") for part in (top, *rest)), (
                f"{path}: {name}"
            )


def test_the_errors_and_the_field_lists_depend_on_nothing_of_ours() -> None:
    for name in ("errors.py", "secret.py", "engine/vllm_fields.py"):
        assert not [module for module, _ in imported(ROOT / "rayllm_batch" / name) if module.startswith("rayllm_batch")]


def test_what_is_public() -> None:
    import rayllm_batch
    from rayllm_batch import config, workload

    assert sorted(rayllm_batch.__all__) == [
        "CNNDailySummary",
        "ChatWorkloadBase",
        "EngineConfig",
        "OpenAIBatchFile",
        "RayLLMBatch",
        "SyntheticWithSharedPrefix",
        "init_engine_from_config",
    ]
    assert sorted(workload.__all__) == ["ChatWorkloadBase", "check_workload", "read_dataset_file"]
    assert sorted(config.__all__) == ["EngineConfig", "EnvVars", "init_engine_from_config"]
    for module in (rayllm_batch, workload, config):
        assert all(hasattr(module, name) for name in module.__all__)
    assert rayllm_batch.ChatWorkloadBase is workload.ChatWorkloadBase
    for name in ("run", "get_avg_engine_time_per_replica", "project_1m_token_time"):
        assert callable(getattr(rayllm_batch.RayLLMBatch, name))


def test_project_1m_token_time() -> None:
    from rayllm_batch import RayLLMBatch

    assert RayLLMBatch.project_1m_token_time(500_000, 100.0, 60.0) == 160.0
    assert RayLLMBatch.project_1m_token_time(1_000_000, 100, 60) == 100.0
    for total in (0, -1):
        with pytest.raises(ValueError, match="above 0"):
            RayLLMBatch.project_1m_token_time(total, 100.0, 60.0)
