"""The page of an episode in a browser (see ``package.json``), and its sources."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents import watch, write_page
from agents.problem import Windows
from envs import CLUSTER, Scenario
from envs.workloads.failures import FailureModel
from tests.envs.cases import gpu_trace
from tests.page.test_browser import missing

_HERE = Path(__file__).parent
_PAGE = _HERE.parents[1] / "envs" / "viewing" / "web"


def test_sources_are_modules_that_say_what_they_are() -> None:
    scripts = sorted(_PAGE.glob("*.js"))
    assert len(scripts) == 5
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("// ")
        assert len(text.splitlines()) < 300
        assert "innerHTML" not in text  # text gets into the page as text
    assert not re.search(r"\son\w+=\"|\sstyle=\"", (_PAGE / "episode.html").read_text("utf-8"))


@pytest.mark.slow
def test_it_plays_in_light_and_dark_and_by_keyboard(tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(f"page: {reason}")
    config = replace(CLUSTER, episode_jobs=40, victims=4, min_run_seconds=900.0)
    failures = Scenario(FailureModel(rate_scale=100.0))
    windows = Windows(gpu_trace(), config, np.array([0]), failures)
    page = tmp_path / "episode.html"
    write_page(page, [watch(name, windows) for name in ("srtf", "fcfs")])
    command = ["node", str(_HERE / "episode.mjs"), str(page), str(shutil.which("chromium"))]
    command += [os.environ["PICTURE"]] if os.environ.get("PICTURE") else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "done\n"
