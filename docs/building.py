"""What mkdocs adds to the pages under docs/site: those that lie elsewhere, and the reference.

mkdocs.yml names this file as a hook. A page of the repository is shown as it is, and links are
written as a reader of the repository follows them; here those to other pages and to pictures become
the site's, and those to files that the site does not have become plain text.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "docs" / "site"
PAGES = (
    *("CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"),
    *("docs/operations.md", "docs/trace-format.md", "docs/api.md", "docs/dependencies.md"),
    "docs/own-parts.md",
    "docs/decisions/*.md",
    "results/README.md",
    "results/*/table.md",
)
"""Pages of the repository that the site shows, as patterns."""
PACKAGES = ("orchestrator", "envs", "agents")

_LOG = logging.getLogger("mkdocs.hooks.building")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", flags=re.MULTILINE | re.DOTALL)


def shown() -> dict[str, Path]:
    """Pages that lie elsewhere in the repository: where on the site, and where they lie."""
    found = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    return {f"repository/{path.relative_to(ROOT).as_posix()}": path for path in found}


def notebooks() -> dict[str, Path]:
    """The same of notebooks."""
    return {
        f"notebooks/{path.stem}.md": path for path in sorted(ROOT.glob("docs/notebooks/*.ipynb"))
    }


def notebook_page(path: Path) -> str:
    """A notebook as a page: its text, and its code."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [f"*The notebook `{path.relative_to(ROOT).as_posix()}`; the tests run it.*"]
    for cell in cells:
        text = "".join(cell["source"]).strip("\n")
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title, _, rest = parts[1].partition("\n")
    return "\n\n".join([title, parts[0], rest.strip(), *parts[2:]]) + "\n"


def reference_page(package: str) -> str:
    """What programs import from a package, each with its documentation."""
    lines = [f"# {package}", "", f"What programs import: `from {package} import NAME`.", ""]
    tree = ast.parse((ROOT / package / "__init__.pyi").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            lines += [f"::: {package}.{node.module}.{alias.name}\n" for alias in node.names]
    return "\n".join(lines) + "\n"


def _sources() -> dict[str, Path]:
    """Every page that a link may lead to, and the file whose links it has."""
    own = {path.relative_to(SITE).as_posix(): path for path in SITE.rglob("*.md")}
    return {**own, **shown(), **notebooks()}


def _home(target: Path) -> str | None:
    """Where on the site a file of the repository is, or None."""
    if target.is_dir():
        target = target / "README.md"
    for uri, path in _sources().items():
        if path == target:
            return uri
    if target.suffix == ".png" and target.is_file():
        return f"repository/{target.relative_to(ROOT).as_posix()}"
    return None


def rewritten(text: str, uri: str, source: Path) -> str:
    """A page's text with the site's links."""

    def link(match: re.Match[str]) -> str:
        picture, label, address = match.groups()
        path, mark, anchor = address.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return match.group()
        target = Path(os.path.normpath(source.parent / path))
        home = _home(target)
        if home is None:
            if not target.exists():
                if source.is_relative_to(SITE):
                    raise SystemExit(f"{source}: the link '{address}' leads nowhere")
                _LOG.info("%s: '%s' is not there (yet), and shown without a link", source, address)
            return label
        near = os.path.relpath(home, os.path.dirname(uri) or ".")  # noqa: PTH120  of an address
        return f"{picture}[{label}]({near}{mark}{anchor})"

    parts = _CODE.split(text)
    inside = [f"\0{i}\0" if i % 2 else part for i, part in enumerate(parts)]
    done = _LINK.sub(link, "".join(inside))
    return re.sub("\0(\\d+)\0", lambda m: parts[int(m.group(1))], done)


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are not under docs/site, and the pictures that pages show."""
    for uri, path in shown().items():
        files.append(File.generated(config, uri, content=path.read_text(encoding="utf-8")))
    for uri, path in notebooks().items():
        files.append(File.generated(config, uri, content=notebook_page(path)))
    for package in PACKAGES:
        uri = f"reference/{package}.md"
        files.append(File.generated(config, uri, content=reference_page(package)))
    for picture in sorted(ROOT.glob("results/**/*.png")) + sorted(ROOT.glob("docs/*.png")):
        uri = f"repository/{picture.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, uri, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Rewrite the links of a page."""
    del config, files
    uri = page.file.src_uri
    source = _sources().get(uri)
    return markdown if source is None else rewritten(markdown, uri, source)
