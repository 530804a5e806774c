"""The documentation site says what is so: tables are the code's, commands exist, code runs.

That its links, anchors and pages are there, `make docs-build` finds out, a step of `.ci/run`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from agents.cli import main
from agents.program import config_dir

_ROOT = Path(__file__).resolve().parents[2]
_SITE = _ROOT / "docs" / "site"
_PAGES = sorted(_SITE.rglob("*.md"))
_BLOCK = re.compile(r"(<!-- run -->\n)?^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
# Settings that the blocks that are run leave room for: seconds instead of minutes.
_CHEAP = {
    "CHEAP": "agent.budget_seconds=null agent.generations=2 agent.windows=2 agent.population=4 "
    "agent.validation_windows=2 workload.otherwise.jobs=4000 task.evaluation_jobs=128 "
    "evaluation.windows=4 evaluation.keep_jobs=2",
    "CHEAP_SUITE": "workload.otherwise.jobs=4000 suite.length=128 suite.windows=4 "
    "suite.rules=[fcfs,sjf] suite.baselines=[sjf]",
}


def _name(path: Path) -> str:
    return path.relative_to(_SITE).as_posix()


def _blocks(path: Path, language: str) -> list[tuple[bool, str]]:
    """Blocks of a language on a page, and whether they are marked to be run."""
    found = _BLOCK.findall(path.read_text(encoding="utf-8"))
    return [(bool(mark), text) for mark, kind, text in found if kind == language]


def _commands() -> list[tuple[str, str]]:
    return [
        (_name(path), line.strip())
        for path in _PAGES
        for _, text in _blocks(path, "sh")
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip()
    ]


def _environment(folder: Path) -> dict[str, str]:
    """As after `source .venv/bin/activate`, without traces, and with this checkout's packages."""
    given = {k: v for k, v in os.environ.items() if k != "TRACES_DIR"} | _CHEAP
    given["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{given['PATH']}"
    given["PYTHONPATH"] = str(_ROOT)
    for name in ("scripts", "examples"):
        (folder / name).symlink_to(_ROOT / name)
    return given


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_tables_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "docs/pages.py", "--check"],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _check_script(script: str, words: list[str]) -> None:
    """A script composes what it is told."""
    overrides = [word for word in words if not word.startswith("-") and word not in _VARIABLES]
    if script == "report":  # it takes folders without a name
        overrides = [word for word in overrides if "=" in word]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        compose(script, [word for word in overrides if not word.startswith("seed=0,")])


_VARIABLES = {f"${name}" for name in _CHEAP}


@pytest.mark.parametrize(("page", "line"), _commands())
def test_commands_name_what_exists(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TRACES_DIR", "/traces")
    words = shlex.split(line, comments=True)
    if words[0] == "python":
        place = _ROOT / words[1]
        assert place.is_file(), f"{page}: {words[1]}"
        if place.parent.name == "scripts":
            _check_script(place.stem, words[2:])
    elif words[0] == "make":
        assert f"\n{words[1]}:" in (_ROOT / "Makefile").read_text(encoding="utf-8"), page
    elif words[0] == "quartermaster":
        names = list(takewhile(lambda word: re.fullmatch("[a-z]+(-[a-z]+)*", word), words[1:]))
        assert main([*names, "--help"]) == 0, f"{page}: {line}"
        options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert {word for word in words if word.startswith("--")} <= options, f"{page}: {line}"
    else:
        assert words[:2] == ["source", ".venv/bin/activate"], f"{page}: what is '{line}'?"


@pytest.mark.slow
def test_the_first_hour_word_for_word(tmp_path: Path) -> None:
    blocks = [text for marked, text in _blocks(_SITE / "first-hour.md", "sh") if marked]
    assert len(blocks) == 2
    _run(["bash", "-euc", "\n".join(blocks)], tmp_path)
    first, judged = tmp_path / "results" / "first", tmp_path / "results" / "first_judged"
    assert {"config.yaml", "history.csv", "bundle"} <= {path.name for path in first.iterdir()}
    assert {"table.md", "jobs.csv", "runs.csv"} <= {path.name for path in judged.iterdir()}


def test_python_on_the_pages_runs(tmp_path: Path) -> None:
    """All pages in one process, so that kernels are loaded once; names of each are its own."""
    pages = {_name(path): [text for _, text in _blocks(path, "python")] for path in _PAGES}
    pages = {name: blocks for name, blocks in pages.items() if blocks}
    assert len(pages) >= 9
    assert _played(pages, tmp_path) == list(pages)


def test_notebooks_run(tmp_path: Path) -> None:
    books = {}
    for path in sorted((_ROOT / "docs" / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        books[path.name] = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        assert all(not c.get("outputs") for c in cells), f"{path.name}: clear its outputs"
    assert len(books) == 2
    assert _played(books, tmp_path) == list(books)


def _played(pages: dict[str, list[str]], folder: Path) -> list[str]:
    """Run the blocks of each page one after the other; the pages that came to their end."""
    (folder / "blocks.json").write_text(json.dumps(pages))
    program = (
        "import json, sys\n"
        "for page, blocks in json.load(open('blocks.json')).items():\n"
        "    names = {'__name__': '__main__'}\n"
        "    for block in blocks:\n"
        "        exec(compile(block, page, 'exec'), names)\n"
        "    print('ended ' + page)\n"
    )
    printed = _run([sys.executable, "-c", program], folder)
    return [line.removeprefix("ended ") for line in printed.splitlines() if "ended " in line]


def test_what_the_table_of_expectations_names_is_there() -> None:
    text = (_SITE / "expected.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:tests|scripts)/[\w/]+\.py)`", text))
    assert len(named) > 15
    assert {name for name in named if not (_ROOT / name).is_file()} == set()
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    silent = [row for row in rows if "**no**" not in row and not re.search(r"tests/|\.md\)", row)]
    assert silent == [], "every row names its test or its page"
