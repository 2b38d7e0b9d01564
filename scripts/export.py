"""README.ipynb is the one source: write main.py and README.md from it, or check that they are what it gives.

    python scripts/export.py            write them
    python scripts/export.py --check    change nothing; exit 1, naming the repair, where one differs

`jupytext --sync` would not do as a check: when both files have the same time it may revert the notebook.
"""

from __future__ import annotations

import argparse
import difflib
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "README.ipynb"


def exported() -> dict[str, str]:
    """The text of each exported file, made in a temporary folder by jupytext and nbconvert."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for name in ("README.ipynb", "jupytext.toml"):  # jupytext.toml holds the formats
            (here / name).write_bytes((ROOT / name).read_bytes())
        _run("jupytext", "--quiet", "--to", "py:percent", "--output", str(here / "main.py"), str(here / "README.ipynb"))
        _run(
            "nbconvert",
            "--log-level=ERROR",
            "--to",
            "markdown",
            "--ClearOutputPreprocessor.enabled=True",
            "--output-dir",
            folder,
            "--output",
            "README.md",
            str(here / "README.ipynb"),
        )
        markdown = (here / "README.md").read_text(encoding="utf-8")
        return {"main.py": (here / "main.py").read_text(encoding="utf-8"), "README.md": markdown.strip("\n") + "\n"}


def notebook_problems() -> list[str]:
    """What a committed notebook must not have: outputs, execution counts; and what it must: language_info.name."""
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    problems = []
    if any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code"):
        problems.append("README.ipynb has outputs. Clear them: jupyter nbconvert --clear-output --inplace README.ipynb")
    if notebook.metadata.get("language_info", {}).get("name") != "python":
        problems.append("README.ipynb lacks language_info.name, without which it exports as text. Set it to python.")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a file differs")
    check = parser.parse_args().check
    problems = notebook_problems() if check else []
    for name, text in exported().items():
        path = ROOT / name
        if not check:
            path.write_text(text, encoding="utf-8")
            continue
        current = path.read_text(encoding="utf-8") if path.is_file() else ""
        if current != text:
            lines = difflib.unified_diff(
                current.splitlines(), text.splitlines(), name, "from README.ipynb", lineterm="", n=1
            )
            problems.append(
                f"{name} is not what README.ipynb gives. Repair: make export\n" + "\n".join(list(lines)[:20])
            )
    print("\n".join(problems) if problems else "main.py and README.md are in step with README.ipynb.")
    return 1 if problems else 0


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main())
