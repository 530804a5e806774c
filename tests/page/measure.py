"""How fast the page is: pictures a second, from an event to its pixels, and what a view costs.

python tests/page/measure.py [nodes] [jobs]
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import psutil

from agents.speed.live.questions import LiveCluster
from orchestrator.server.view import ClusterPicture
from tests.page.test_browser import Server, drive, missing

_REPEATS = 20


def _ms(work: Callable[[], object]) -> float:
    """Milliseconds of this process's time, the median of some."""
    found = []
    for _ in range(_REPEATS):
        begun = time.process_time()
        work()
        found.append(1000 * (time.process_time() - begun))
    return statistics.median(found)


def view_costs(nodes: int, jobs: int) -> dict[str, float]:
    """What the view of a large cluster costs, ms, and its size, kB."""
    cluster = LiveCluster(nodes, jobs, "fcfs", time.process_time)
    cluster.cycle()
    picture = ClusterPicture(cluster.orchestrator)
    picture.changes()
    ended = []
    for _ in range(_REPEATS):
        cluster.end()
        ended.append(_one(picture))
    whole = msgspec.json.encode(picture.whole())
    return {
        "view_unchanged_ms": _ms(picture.changes),
        "view_changed_ms": statistics.median(took for took, _ in ended),
        "view_changed_kb": statistics.median(size for _, size in ended) / 1000,
        "view_whole_ms": _ms(lambda: msgspec.json.encode(picture.whole())),
        "view_whole_kb": len(whole) / 1000,
    }


def _one(picture: ClusterPicture) -> tuple[float, int]:
    begun = time.process_time()
    told = msgspec.json.encode(picture.changes())
    return 1000 * (time.process_time() - begun), len(told)


def page_speed(nodes: int, jobs: int) -> dict[str, float]:
    """What a browser makes of it."""
    with tempfile.TemporaryDirectory() as name:
        script = str(Path(__file__).with_name("cluster.py"))
        server = Server(Path(name), script, name, str(nodes), str(jobs))

        def wait() -> str:
            """Until the cluster is full and as many wait as should."""
            told = json.loads(server.endpoint.read_text(encoding="utf-8"))
            headers = {"Authorization": f"Bearer {told['token']}"}
            view, until = f"{told['url']}/api/v1/view", time.monotonic() + 90.0
            while time.monotonic() < until:
                totals = httpx.get(view, headers=headers, timeout=30.0).json()["totals"]
                if totals["queued"] > jobs / 2 and totals["used"] > 0.9 * totals["capacity"]:
                    break
                time.sleep(0.5)
            return json.dumps(told | {"submit": nodes < 100})

        try:
            figures = drive("measure.mjs", server, {"wait": wait})
            figures["server_cpu_s"] = sum(psutil.Process(server.process.pid).cpu_times()[:2])
        finally:
            server.end()
    return figures


def main(nodes: int = 1000, jobs: int = 10_000) -> None:
    """Print a table: of a large cluster, and of what a browser makes of it and of a small one."""
    _show(view_costs(nodes, jobs), nodes)
    if reason := missing():
        print(f"page: {reason}")
        return
    for size, many in ((nodes, jobs), (12, 40)):
        _show(page_speed(size, many), size)


def _show(figures: dict[str, float], nodes: int) -> None:
    for name, value in figures.items():
        print(f"{nodes:6,} nodes  {name:22} {value:10.2f}", flush=True)


if __name__ == "__main__":
    main(*(int(given) for given in sys.argv[1:]))
