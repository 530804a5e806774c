"""Write docs/api.md: the public names of the three packages, from their stubs and docstrings.

    python scripts/document_api.py [--check]

With ``--check`` nothing is written; the exit status is 1 if the file is not what it should be.
"""

from __future__ import annotations

import argparse
import ast
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("orchestrator", "envs", "agents")
_ABOUT = (
    "What programs are written with, by `from PACKAGE import NAME`. Names are loaded when they are "
    "first used. Modules are named for readers: they are private and may move. "
    "`python scripts/document_api.py` writes this page."
)


def public_names(package: str) -> dict[str, list[str]]:
    """Names of a package's stub, by the module that they live in."""
    stub = ast.parse((ROOT / package / "__init__.pyi").read_text(encoding="utf-8"))
    homes: dict[str, list[str]] = {}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            home = f"{package}.{node.module}" if node.module else package
            homes.setdefault(home, []).extend(alias.name for alias in node.names)
    return homes


def first_line(package: str, home: str, name: str) -> str:
    """First line of the docstring of a name; of a constant or an alias what it is."""
    value = getattr(import_module(package), name)
    source = ast.parse(Path(str(import_module(home).__file__)).read_text(encoding="utf-8"))
    for node, after in zip(source.body, [*source.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            if node.name == name:
                return (ast.get_docstring(node) or "").partition("\n")[0]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    return str(after.value.value).partition("\n")[0]
                return f"A constant of type `{type(value).__name__}`."
    return ""


def document() -> str:
    """The page."""
    lines = [
        "# Public interface",
        "",
        _ABOUT,
    ]
    for package in PACKAGES:
        lines += ["", f"## {package}"]
        for home, names in public_names(package).items():
            about = (import_module(home).__doc__ or "").partition("\n")[0]
            lines += ["", f"### `{home}`", "", about, "", "| name | what it is |", "| --- | --- |"]
            for name in names:
                text = first_line(package, home, name).replace("``", "`").replace("|", "\\|")
                lines.append(f"| `{name}` | {text} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; say whether it is current"
    )
    check: bool = parser.parse_args().check
    page, place = document(), ROOT / "docs" / "api.md"
    if not check:
        place.write_text(page, encoding="utf-8")
        return 0
    if place.is_file() and place.read_text(encoding="utf-8") == page:
        return 0
    print("docs/api.md is not current; run python scripts/document_api.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
