"""What docs/operations.md tells people to do works, and what lies beside it says what is true."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.mesh.specs import ServiceSpec
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.server.exposition import Exposition

_ROOT = Path(__file__).resolve().parents[1]
_DOCS = _ROOT / "docs"
_DEPLOY = _DOCS / "deploy"
_TEXT = (_DOCS / "operations.md").read_text(encoding="utf-8")


def _blocks(text: str) -> list[str]:
    """What a shell is told, block by block."""
    return re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def _run(
    script: str, folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a script, and leave nothing of it behind."""
    command = ["bash", "-c", script]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=240)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # agents end with their server
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.slow
def test_a_first_day_and_a_restore_word_for_word(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("quartermaster", " -m agents.cli"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{module} "$@"\n')
        program.chmod(0o755)
    day, saved, restored = _blocks(_TEXT)
    script = f"""set -eu
    trap 'kill -TERM $(jobs -p) 2> /dev/null; wait' EXIT
    {day}\n{saved}\n{restored}"""
    environment = {
        **{name: value for name, value in os.environ.items() if "QUARTERMASTER" not in name},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(_ROOT),
    }
    done = _run(script, tmp_path, environment)
    told = done.stdout + done.stderr
    for name in ("serve.out", "restored.out"):
        told += (tmp_path / name).read_text() if (tmp_path / name).exists() else ""
    assert done.returncode == 0, told
    assert "hello" in done.stdout
    assert "node-1" in done.stdout
    listed = done.stdout.rsplit("JOB ", 1)[1]  # what the restored server lists
    assert re.search(r"hello-\w+ .*completed", listed), told
    for folder in ("cluster", "restored"):
        assert (tmp_path / folder / "endpoint.json").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def _exposed() -> set[str]:
    """Names of all samples that a server with a service exposes."""
    clock = VirtualClock()
    shape = ClusterShape(envs=1, jobs=4, workers=1, nodes=1)
    orchestrator = InfrastructureOrchestrator(*in_memory(clock), clock=clock, shape=shape)
    orchestrator.mesh.add_service(ServiceSpec("chat", 50.0))
    exposition = Exposition(orchestrator)
    families = list(exposition.registry.collect())
    return {
        name
        for family in families
        for name in {
            *(sample.name for sample in family.samples),
            *([family.name + "_total"] if family.type == "counter" else [family.name]),
            *([f"{family.name}_bucket"] if family.type == "histogram" else []),
        }
    }


def test_the_dashboard_and_the_manual_name_metrics_that_there_are() -> None:
    board: dict[str, Any] = json.loads((_DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    targets = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(targets) > 20
    exposed = _exposed()
    for source in (*targets, _TEXT):
        for name in re.findall(r"\bquartermaster_\w+", source):
            assert name in exposed or f"{name}_bucket" in exposed, name


def test_the_units_are_well_formed(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("no systemd-analyze on this machine (Debian: systemd)")
    units = sorted(_DEPLOY.glob("*.service"))
    assert len(units) == 2
    for unit in units:
        # The program need not be installed where it is tested.
        text = unit.read_text(encoding="utf-8")
        assert "/opt/quartermaster/bin/quartermaster " in text
        there = text.replace("/opt/quartermaster/bin/quartermaster", sys.executable)
        (tmp_path / unit.name).write_text(there)
        done = subprocess.run(
            [verify, "verify", str(tmp_path / unit.name)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_container_s_build_copies_what_there_is() -> None:
    text = (_DEPLOY / "Containerfile").read_text(encoding="utf-8")
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (.*)$", text, flags=re.MULTILINE)]
    assert len(copied) >= 5
    for path in (name for names in copied for name in names):
        assert (_ROOT / path).exists(), path


def test_links_of_the_manual_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", _TEXT)
    assert len(links) >= 4
    for link in links:
        assert (_DOCS / link).exists(), link
