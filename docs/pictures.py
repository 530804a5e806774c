"""Draw the pictures of the documentation site: rules on one window, workloads, pages of a browser.

    python docs/pictures.py [--only NAME]

They are written to docs/site/pictures, and are the same whenever they are drawn by the same
versions. Workloads that are public traces are drawn where TRACES_DIR says where they lie; the page
of an episode, and that of a cluster which is asked what if, are photographed where there is
Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
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
from agents import Windows, evaluate_named, load_bundle, watch, write_page
from agents.evaluation.play import ZOO
from agents.plots.gantt import draw_gantts
from agents.plots.trace import draw_trace
from agents.program import config_dir
from envs import summarise_trace
from envs.workloads import Trace
from orchestrator.clock import VirtualClock
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.scheduling.rules import RULES
from orchestrator.server.app import create_app
from orchestrator.server.guard.gate import Limits
from orchestrator.server.guard.listen import HttpServer, bind
from orchestrator.server.guard.repeats import Repeats
from orchestrator.server.guard.tokens import Role, TokenStore
from orchestrator.server.parts import Parts, Streams
from orchestrator.types import JobPriority, JobSpec, NodeSpec, TenantSpec

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
    windows = _windows(*_EPISODE)
    episodes = [watch(name, windows) for name in ("fill_srsf", "elastic_srtf", "fcfs")]
    bundle = ROOT / "results" / "philly" / "cma"
    policy = load_bundle(bundle, windows.session(1).config.schema)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "episode.html"
        write_page(page, [watch(policy, windows), *episodes])
        _photograph(path, f"{page.as_uri()}#t=0.085&span=0.25", "1280,1250", 3000)


def _photograph(path: Path, url: str, size: str, budget_ms: int) -> None:
    """A page, once so much of its own time has passed."""
    command = [str(shutil.which("chromium")), "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--hide-scrollbars", f"--window-size={size}", f"--virtual-time-budget={budget_ms}"]
    subprocess.run(
        [*command, f"--screenshot={path}", url], check=True, capture_output=True, timeout=120
    )


_HOUR_MS = 3_600_000
_TENANTS = ("language", "robotics", "speech", "vision")


def _job(k: int, draw: random.Random) -> JobSpec:
    """Who comes: small ones soon over, large ones not, and estimates that are too long."""
    gpus, name = draw.choice((1, 1, 2, 4, 8, 8)), draw.choice(("train", "tune", "evaluate"))
    hours = draw.lognormvariate(0.3, 0.9)
    return JobSpec(
        job_id=f"{name}-{k:04d}",
        name=name,
        priority=JobPriority(draw.choice((1, 2, 2, 2, 3))),
        num_workers=draw.choice((1, 2)) if gpus == 8 else 1,
        gpus_per_worker=gpus,
        memory_per_worker_gb=16.0,
        max_duration_hours=hours * draw.uniform(1.0, 3.0),
        checkpoint_interval_steps=60,
        tenant=draw.choice(_TENANTS),
        duration_hours=hours,
    )


async def _cluster(clock: VirtualClock) -> InfrastructureOrchestrator:
    """Eight nodes after two days and a half, nearly as much to do as they have room for."""
    draw = random.Random(5)
    orchestrator = InfrastructureOrchestrator(
        *in_memory(clock),
        clock=clock,
        shape=ClusterShape(envs=1, jobs=2048, workers=8, nodes=16, devices=8),
        nodes=[NodeSpec(f"node-{k}", 8, 80.0, 96, 512.0, 100.0, "NVLink") for k in range(8)],
        tenants=[TenantSpec(name, 1.0) for name in _TENANTS],
        schedule_on_events=True,
    )
    await orchestrator.start()
    until_ms, k = clock.now_ms() + 60 * _HOUR_MS, 0
    while clock.now_ms() < until_ms:
        await clock.advance_to(clock.now_ms() + round(draw.expovariate(6.2) * _HOUR_MS) + 1)
        await orchestrator.submit_job(_job(k, draw))
        k += 1
    return orchestrator


async def _ask(path: Path) -> None:
    clock = VirtualClock(1_800_000_000_000)
    orchestrator = await _cluster(clock)
    tokens, limits, repeats = TokenStore(None, clock), Limits(), Repeats(None)
    parts = Parts(orchestrator, tokens, repeats, Streams(limits.streams, tokens), limits)
    http = HttpServer(create_app(parts), bind("127.0.0.1", 0), limits)
    await http.open()
    asked = f"token={tokens.create('viewer', Role.VIEWER)}&what-if=drain&node=node-3"
    try:
        url = f"http://127.0.0.1:{http.port}/#{asked}"
        await asyncio.to_thread(_photograph, path, url, "1000,1250", 8000)
    finally:
        parts.streams.close()
        await http.close()
        repeats.close()
        await orchestrator.stop()


def ask(path: Path) -> None:
    """The page of a cluster that is asked what if a node were drained."""
    asyncio.run(_ask(path))


def pictures() -> dict[str, Callable[[Path], None]]:
    """All that can be drawn here, by name."""
    drawn: dict[str, Callable[[Path], None]] = {"rules": draw_rules}
    if shutil.which("chromium") is None:
        print("pages are not photographed: there is no program chromium", file=sys.stderr)
    else:
        drawn |= {"episode": photograph, "what_if": ask}
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
