"""The static site: `make docs`. Sphinx, with the theme Furo and pages in Markdown; nothing comes from another host.

Not MkDocs: Material for MkDocs ends in May 2027, and its successor Zensical is before its first stable version.
"""

import contextlib
import io
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from rayllm_batch import __version__  # noqa: E402
from rayllm_batch.arguments import COMMANDS, OTHERS, parse  # noqa: E402

project, author, release = "rayllm_batch", "the rayllm_batch authors", __version__
copyright = ""
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "README.md"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # as GitHub makes them, so that links to sections work in both
html_theme = "furo"
pygments_dark_style = "github-dark"  # where names are not underlined as links are
html_title = f"rayllm_batch {release}"
html_static_path = ["site"]
html_css_files = ["wide.css"]
html_show_sphinx = html_show_copyright = html_copy_source = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # as they are written
maximum_signature_line_length = 80

# Pages that are files elsewhere in the repository: a link to the file is one to the page.
PAGES = {"../README.md": "index.md", "../bench/RESULTS.md": "results.md", "../bench/RELIABILITY.md": "reliability.md"}
OF_FIELD = re.compile(r"(\w+(?:, \w+)*): +(?=\S)")


def read_fields(_app, what, _name, _obj, _options, lines):
    """Docstrings have `name:   what it is`, continued further in: reStructuredText's are definition lists."""
    plain = [re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line).replace("*", r"\*") for line in lines]
    lines.clear()
    if what == "module":  # of the errors, their tree, which the classes below it say
        return
    in_fields = False
    for line, after in zip(plain, [*plain[1:], ""], strict=True):
        field = OF_FIELD.match(line)
        if field and (in_fields or not after or after.startswith("  ") or OF_FIELD.match(after)):
            in_fields = True
            lines.extend(["", f"``{field[1]}``", f"    {line[field.end() :]}"])
        elif in_fields and line.startswith(" "):
            lines.append(f"    {line.strip()}")
        else:
            lines.extend(["", line] if in_fields and line else [line])
            in_fields = in_fields and not line


def shorten_defaults(_app, _what, _name, _obj, _options, signature, returns):
    return (signature or "").replace("<factory>", "...") or None, returns


def prepare(_app, _docname, source):
    """Links to files that are pages; and in place of `<!-- help -->`, what the commands print."""
    for file, page in PAGES.items():
        source[0] = source[0].replace(f"]({file}", f"]({page}")
    if "<!-- help -->" not in source[0]:
        return
    parts = []
    for command in [*COMMANDS, *OTHERS]:
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
            parse([command, "--help"])
        usage = said.getvalue().partition("\nexit codes:")[0]
        parts.append(f"### {command}\n\n````text\n{usage.strip()}\n````\n")
    source[0] = source[0].replace("<!-- help -->", "\n".join(parts))


def setup(app):
    app.connect("autodoc-process-docstring", read_fields)
    app.connect("autodoc-process-signature", shorten_defaults)
    app.connect("source-read", prepare)
