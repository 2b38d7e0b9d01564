"""The code blocks of README.md and docs/, and where they run: a folder like the repository, whose engines echo."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIRST_SCREEN = "<!-- end of the first screen -->"
# A block is run unless a comment above it says why not; readers do not see it.
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<why_not>[^\n]+) -->\n\n?)?^(?P<ticks>`{3,})(?P<kind>[^\n]*)\n(?P<text>.*?)^(?P=ticks)$",
    re.MULTILINE | re.DOTALL,
)
COMMAND = "python -m rayllm_batch "


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    kind: str
    text: str
    why_not: Optional[str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The arguments of each command of ours, of a block of shell that has nothing else."""
        lines = self.text.replace("\\\n", " ").splitlines()
        assert all(line.startswith(COMMAND) for line in lines), f"{self}: only {COMMAND}... is run"
        return [shlex.split(line.removeprefix(COMMAND), comments=True) for line in lines]


def blocks(page: Path) -> list[Block]:
    """Without the README's cells, which its own tests run."""
    text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("ticks")) + 1
        found.append(Block(name, line, match["kind"].strip(), match["text"], match["why_not"]))
    if page.name != "README.md":
        return found
    cells = json.loads(page.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    of_cells = {"".join(cell["source"]).strip() for cell in cells if cell["cell_type"] == "code"}
    return [block for block in found if block.text.strip() not in of_cells]


def make_place(folder: Path, echo: bool) -> Path:
    """A folder with the repository's assets and configs. echo: of those for a CPU, the engine is the echo engine."""
    (folder / "assets").symlink_to(ROOT / "assets")
    (folder / "configs").mkdir()
    for path in (ROOT / "configs").glob("*.yaml"):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if echo and config.get("accelerator_type") == "CPU":
            config["llm_engine"] = "echo"
        (folder / "configs" / path.name).write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def run_python(block: Block, names: dict[str, Any]) -> None:
    """In the page's namespace, as one cell after the other."""
    exec(compile("\n" * block.line + block.text, block.page, "exec", dont_inherit=True), names)
