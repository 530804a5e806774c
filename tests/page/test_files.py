"""The page's files: what comes along is what is recorded, and nobody else is asked for anything."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = _ROOT / "orchestrator" / "server" / "page"
_OWN = sorted(path for path in _PAGE.iterdir() if path.is_file())
_VENDORED = sorted(path for path in (_PAGE / "vendor").rglob("*") if path.is_file())
_NAMES_ONLY = ("http://www.w3.org/2000/svg",)  # a namespace, which nobody fetches


def test_what_is_brought_along_is_what_is_recorded() -> None:
    recorded = (_ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    digests = dict(re.findall(r"\| `([\w./]+)` \| `([0-9a-f]{64})` \|", recorded))
    found = {
        path.relative_to(_PAGE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in _VENDORED
    }
    assert len(found) == 3
    assert found == digests
    assert "MIT" in (_PAGE / "vendor" / "uplot" / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", _OWN, ids=lambda path: str(path.name))
def test_nothing_outside_is_asked_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in _NAMES_ONLY:
        text = text.replace(name, "")
    assert re.findall(r"(?:https?:)?//[\w-]+\.\w+", text) == []
    assert "innerHTML" not in text  # text gets into the page as text
    assert not re.search(
        r"<script(?![^>]*\bsrc=)|\son\w+=\"|\sstyle=\"", text
    )  # its policy forbids them


def test_all_modules_are_there() -> None:
    scripts = [path for path in _OWN if path.suffix == ".js"]
    assert len(scripts) > 10
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r'from "(.+?)"', text):
            assert (_PAGE / name).is_file(), f"{path.name} imports {name}"
        assert len(text.splitlines()) < 300, f"{path.name} is a heap"
        assert text.startswith("// "), f"{path.name} does not say what it is"
    for name in re.findall(r'(?:src|href)="/page/(.+?)"', (_PAGE / "index.html").read_text()):
        assert (_PAGE / name).is_file()
