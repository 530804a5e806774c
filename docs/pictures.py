"""Draw the pictures of the documentation site: what every rule does with one window, and workloads.

    python docs/pictures.py [--only NAME]

They are written to docs/site/pictures, and are the same whenever they are drawn by the same
versions. Workloads that are public traces are drawn where TRACES_DIR says where they lie; the page
of an episode is photographed where there is Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "site" / "pictures"
sys.path.insert(0, str(ROOT))

# Run as a script: the packages are found once the root is on the path.
from agents import Windows, evaluate_named, load_bundle, watch, write_page  # noqa: E402
from agents.evaluation.play import ZOO  # noqa: E402
from agents.plots.gantt import draw_gantts  # noqa: E402
from agents.plots.trace import draw_trace  # noqa: E402
from agents.program import config_dir  # noqa: E402
from envs import summarise_trace  # noqa: E402
from envs.workloads import Trace  # noqa: E402
from orchestrator.scheduling.rules import RULES  # noqa: E402

TRACES: Mapping[str, bool] = {
    **dict.fromkeys(("lublin", "gpu_cluster", "gpu_pods"), False),
    **dict.fromkeys(("nasa_ipsc", "philly", "philly_elastic", "openb_times"), True),
}
"""Workloads that are drawn, and whether each takes a public trace."""
_BUSY = ("workload=gpu_cluster_elastic", "workload.jobs=4000", "workload.load=4")
_RULES, _EPISODE = (3540, 48), (2040, 160)  # windows: first job, and how many
_WITHOUT = ("fgd", "wfp3_compat", "unicep_compat")  # it needs pods; two are quirks of others


def _windows(first: int, length: int) -> Windows:
    """A window in which much is going on: elastic jobs on four nodes of eight GPUs."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("evaluate", [*_BUSY, "env=cluster_elastic"])
    trace, config = instantiate(cfg.workload), instantiate(cfg.env)
    return Windows(trace, replace(config, episode_jobs=length), np.array([first]))


def draw_rules(path: Path) -> None:
    """Every rule, and those of the zoo that plan, on the same window: the best first."""
    windows = _windows(*_RULES)
    names = [name for name in RULES if name not in _WITHOUT]
    found = [evaluate_named(name, windows) for name in (*names, *ZOO)]
    found.sort(key=lambda result: float(result.values["bounded_slowdown"][0]))
    draw_gantts(path, found)


def draw_workload(name: str, path: Path) -> None:
    """A workload by the name of its config."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        trace: Trace = instantiate(compose("trace", [f"workload={name}"]).workload)
    draw_trace(path, summarise_trace(trace))


def photograph(path: Path) -> None:
    """The page of an episode, as it is in the midst of it."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print(f"{path.name} is not drawn: there is no program chromium")
        return
    windows = _windows(*_EPISODE)
    episodes = [watch(name, windows) for name in ("fill_srsf", "elastic_srtf", "fcfs")]
    bundle = ROOT / "results" / "philly" / "cma"
    policy = load_bundle(bundle, windows.session(1).config.schema)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "episode.html"
        write_page(page, [watch(policy, windows), *episodes])
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--window-size=1280,1250", "--virtual-time-budget=3000"]
        subprocess.run(
            [*command, f"--screenshot={path}", f"{page.as_uri()}#t=0.085&span=0.25"],
            check=True,
            capture_output=True,
            timeout=120,
        )


def pictures() -> dict[str, Callable[[Path], None]]:
    """All that can be drawn here, by name."""
    drawn: dict[str, Callable[[Path], None]] = {"rules": draw_rules, "episode": photograph}
    for name, public in TRACES.items():
        if not public or os.environ.get("TRACES_DIR"):
            drawn[f"workload_{name}"] = partial(draw_workload, name)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=list(pictures()), help="one of them")
    only: str | None = parser.parse_args().only
    for name, draw in pictures().items():
        if only in (None, name):
            draw(PICTURES / f"{name}.png")
            print(f"docs/site/pictures/{name}.png")


if __name__ == "__main__":
    main()
