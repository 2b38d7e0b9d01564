"""What README.md promises: its links arrive, its messages are those of the code, its figures are those that were measured."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from doc_blocks import FIRST_SCREEN, PAGES, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8")
CODE = re.compile(r"^(`{3,}).*?^\1$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def headings(page: Path) -> set[str]:
    """As GitHub names them."""
    found = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_arrive(page: Path) -> None:
    for path, anchor in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {path}"
        assert not anchor or anchor in headings(target), f"{page.name} links to {path}#{anchor}"


def test_each_page_is_linked() -> None:
    linked = {path for path, _ in LINK.findall(README)}
    of_files = {"index.md", "walkthrough.md", "results.md", "reliability.md"}  # which are files elsewhere
    assert {f"docs/{page.name}" for page in PAGES[1:] if page.name not in of_files} <= linked


def test_no_text_stands_twice() -> None:
    seen: dict[str, str] = {}
    for page in PAGES:
        for sentence in re.split(r"(?<=[.:;])\s+|\n\n|\|", CODE.sub("", page.read_text(encoding="utf-8"))):
            plain = " ".join(sentence.split())
            if len(plain) > 60:
                assert plain not in seen, f"{page.name} repeats {seen[plain]}: {plain}"
                seen[plain] = page.name
    assert len(seen) > 150


def messages() -> list[str]:
    """Those that the README explains, each as its first words are on the screen; `...` is what differs."""
    _, _, table = README.partition("## When something is wrong")
    cells = re.findall(r"^\| (`.+?`) \|", table.partition("\n## ")[0], re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def texts_of_the_code() -> list[str]:
    """Every text in the package, `...` for what is put in."""
    found = []
    for path in (ROOT / "rayllm_batch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value.replace("%s", "...").replace("%.0f", "..."))
    return found


def test_each_message_stands_in_the_code() -> None:
    texts = "\n".join(texts_of_the_code())
    assert len(messages()) > 10
    for message in messages()[1:]:
        assert stands_in(message, texts), message
    assert not stands_in("No node has the accelerator ...; the cluster lacks ...", texts)


def stands_in(message: str, texts: str) -> bool:
    pieces = [re.escape(piece) for piece in re.split(r"(?:\.\.\.)+", message)]
    return re.search(r"[^\n]*?".join(pieces), texts) is not None


def test_the_message_of_a_column_that_is_missing() -> None:
    """It is put together of Python's words and ours."""
    from rayllm_batch.tasks import chat

    row = {"id": 1, "text": "a"}
    with pytest.raises(KeyError) as raised:
        row["article"]
    assert chat.describe_error(raised.value, row) == messages()[0]


def test_figures_of_the_h100_are_those_that_were_measured() -> None:
    """Rows an hour and dollars, from the seconds and tokens/s of RESULTS.md that they are made of."""
    pairs = {"bf16, 817 and 129": (1200, [36.9, 36.2]), "fp8, 795 and 130": (1600, [36.9, 36.3])}
    section = RESULTS.partition("### The versions that are shipped: vLLM 0.29.0, Ray 2.60.0")[2]
    of_pairs = [line.split("|") for line in section.splitlines() if re.match(r"\|.* \| [12] +\|", line)][:4]
    measured = [float(cells[4]) for cells in of_pairs]
    assert measured == [second for _, seconds in pairs.values() for second in seconds]
    by_hour = {name: rows / (sum(seconds) / 2) * 3600 for name, (rows, seconds) in pairs.items()}
    assert "| 5,480 and 5,462 /" in RESULTS
    by_hour["bf16, 512 and 128, held to a JSON schema"] = (5480 + 5462) / 2 / 128 * 3600
    table = README.partition(FIRST_SCREEN)[0]
    for name, said, cost in re.findall(r"^\| H100 \| (.+?) \| ([\d,]+) \| (.+?) \|$", table, re.MULTILINE):
        rows = by_hour.pop(name)
        assert abs(int(said.replace(",", "")) - rows) < 501, (name, rows)
        dollars = [int(figure) for figure in re.findall(r"\b(?<!\.)(\d\d)\b(?!\.)", cost)]
        assert dollars == [round(1e6 / rows * price) for price in (2.69, 6.88)], (name, cost)
    assert not by_hour
    bandwidth = {"A10G": 600, "L4": 300}
    for card, at_most in re.findall(r"^\| (A10G|L4) \| .+? \| at most ([\d,]+), estimate", table, re.MULTILINE):
        bound = 118_000 * bandwidth.pop(card) / 3350
        assert 0 <= bound - int(at_most.replace(",", "")) + 150 < 300, (card, bound)
    assert not bandwidth


def test_it_can_be_read() -> None:
    """In some minutes, and on a phone: short tables, and no picture but those that are here."""
    prose = re.sub(r"\]\([^)]*\)|[|`*#-]", " ", CODE.sub("", README))
    assert len(prose.split()) < 1570
    assert "$" not in prose, "two of them are a formula in a notebook"
    for line in README.splitlines():
        if line.startswith("|"):
            assert line.count("|") <= 5, line
            longest = max(re.sub(r"\]\([^)]*\)", "", line).replace("`", " ").split(), key=len)
            assert len(longest) < 44, f"{longest} widens its table"
