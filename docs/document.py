"""Write what the documents say of the code: docs/api.md and the code map of ARCHITECTURE.md.

    python docs/document.py [--check]

The public names come from the packages' stubs, one line for each file from its docstring. With
``--check`` nothing is written; the exit status is 1 if a document is not what it should be.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("orchestrator", "envs", "agents")
# Parts with stubs of their own: for scripts of jobs, for programs that ask a server, with packages
# that may be missing, and for tests of one's own parts.
PARTS = (
    "orchestrator/worker",
    "orchestrator/client",
    "orchestrator/foundations/etcd",
    "orchestrator/testing",
    "envs/testing",
    "agents/testing",
)
_ABOUT = (
    "What programs are written with, by `from PACKAGE import NAME`. Names are loaded when they are "
    "first used. Modules are named for readers: they are private and may move. "
    "`python docs/document.py` writes this page."
)
_BEGIN, _END = "<!-- code map: written by docs/document.py -->", "<!-- end of the code map -->"


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _line(text: str | None) -> str:
    """First line of a docstring, for a table in Markdown."""
    return (text or "").partition("\n")[0].replace("``", "`").replace("|", "\\|")


def _about(package: str, home: ast.Module, name: str) -> str:
    """What a public name is: first line of its docstring; of a constant what stands below it."""
    for node, after in zip(home.body, [*home.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            if node.name == name:
                return _line(ast.get_docstring(node))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    return _line(str(after.value.value))
                return "A constant."
    raise SystemExit(f"{package}: '{name}' is not defined in the module that the stub names")


def _home(package: str, module: str | None) -> Path:
    place = ROOT / package / (module or "").replace(".", "/")
    inside = place / "__init__.py"  # a folder without one holds what a module beside it reads
    return inside if inside.exists() else place.with_suffix(".py")


def api() -> str:
    """The page of public names."""
    lines = ["# Public interface", "", _ABOUT]
    for package in (PACKAGES[0], *PARTS, *PACKAGES[1:]):
        lines += ["", f"## {package.replace('/', '.')}"]
        for node in _parse(ROOT / package / "__init__.pyi").body:
            if not isinstance(node, ast.ImportFrom):
                continue
            path = _home(package, node.module)
            home, title = _parse(path), f"### {path.relative_to(ROOT).as_posix()}"
            if title not in lines:
                about = _line(ast.get_docstring(home))
                lines += ["", title, "", about, "", "| name | what it is |", "| --- | --- |"]
            for alias in node.names:
                lines.append(f"| `{alias.name}` | {_about(package, home, alias.name)} |")
    return "\n".join(lines) + "\n"


def code_map() -> str:
    """One line for each file, folder by folder."""
    lines: list[str] = []
    for package in PACKAGES:
        for folder in sorted(p.parent for p in (ROOT / package).rglob("__init__.py")):
            about = _line(ast.get_docstring(_parse(folder / "__init__.py")))
            lines += ["", f"**`{folder.relative_to(ROOT).as_posix()}/`** {about}", ""]
            files = sorted(p for p in folder.glob("*.py") if p.name != "__init__.py")
            if files:
                lines += ["| file | what it is |", "| --- | --- |"]
            lines += [f"| `{p.name}` | {_line(ast.get_docstring(_parse(p)))} |" for p in files]
    return "\n".join(lines).strip() + "\n"


def architecture() -> str:
    """ARCHITECTURE.md with its code map as it is now."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, found, after = rest.partition(_END)
    if not found:
        raise SystemExit(f"ARCHITECTURE.md has no code map; put '{_BEGIN}' and '{_END}' into it")
    return f"{before}{_BEGIN}\n\n{code_map()}\n{_END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether they are current")
    check: bool = parser.parse_args().check
    status = 0
    for name, text in (("docs/api.md", api()), ("ARCHITECTURE.md", architecture())):
        place = ROOT / name
        if not check:
            place.write_text(text, encoding="utf-8")
        elif not place.is_file() or place.read_text(encoding="utf-8") != text:
            print(f"{name} is not current: run python docs/document.py", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
