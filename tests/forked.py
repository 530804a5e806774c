"""Scripts as people run them, each in a process of its own that need not import everything anew.

One process imports what the scripts import, and is forked for each run: a run finds modules loaded,
and nothing else of the runs before it, and begins at once instead of after seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

_PARENT = """
import json, os, runpy, sys, traceback

scripts, runs = json.load(sys.stdin)
for script in scripts:
    runpy.run_path(script, run_name="imported")

def run(script, folder, arguments):
    os.chdir(folder)
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}.{kind}", os.O_WRONLY | os.O_CREAT), number)
    sys.argv, sys.path[0] = [script, *arguments], os.path.dirname(script)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

codes = []
for given in runs:
    child = os.fork()
    if child == 0:
        code = run(*given)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


class Done(NamedTuple):
    """How a run has ended: its exit code, what it has printed, and its folder."""

    returncode: int
    stdout: str
    stderr: str
    folder: Path


def play(folder: Path, runs: Sequence[tuple[str, Sequence[str]]]) -> list[Done]:
    """Run scripts, given by name and arguments, one after the other, each in a folder of its own.

    They do not know where traces are.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRACES_DIR"}
    folders = [folder / str(number) for number in range(len(runs))]
    for own in folders:
        own.mkdir()
    scripts = [str(SCRIPTS / f"{name}.py") for name, _ in runs]
    given = [
        (script, str(own), list(arguments))
        for script, own, (_, arguments) in zip(scripts, folders, runs, strict=True)
    ]
    parent = subprocess.run(
        [sys.executable, "-c", _PARENT],
        input=json.dumps([sorted(set(scripts)), given]),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert parent.returncode == 0, parent.stderr
    return [
        Done(code, *(Path(f"{own}.{kind}").read_text() for kind in ("out", "err")), own)
        for code, own in zip(json.loads(parent.stdout), folders, strict=True)
    ]
