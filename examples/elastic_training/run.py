"""Train a network while its workers come, leave and die, and see that it makes no difference.

    python examples/elastic_training/run.py [--steps 1500] [--folder results/elastic]

1 worker -> 4 -> one is killed -> 4 again -> 2, all in one training; then the same in peace.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.worker import DataOrder, LocalController

TRAIN = Path(__file__).with_name("train.py")
ITEMS, BATCH, SEED = 4096, 64, 1
"""As in train.py: what the records are checked against."""

Records = dict[int, list[dict[str, Any]]]


@dataclass(frozen=True)
class Stall:
    """How much later an update came because of a change, ms.

    ``regroup_ms``: of that, from the end of the step until the new group was ready. ``step_ms``:
    how long a step usually took then.
    """

    what: str
    ms: float
    regroup_ms: float
    step_ms: float


@dataclass(frozen=True)
class Outcome:
    """What became of a disturbed training, beside an undisturbed one."""

    loss: float
    undisturbed: float
    stalls: tuple[Stall, ...]
    faults: tuple[str, ...]
    survivor_pids: frozenset[int]


def run(folder: Path, *, steps: int, pause_ms: float = 2.0, save_every: int = 0) -> Outcome:
    """Both trainings, checked."""
    command = [sys.executable, str(TRAIN), "--steps", str(steps), "--save-every", str(save_every)]
    paced = [*command, "--pause-ms", str(pause_ms)]
    place = folder / "disturbed"
    with LocalController([*paced, "--record", str(place / "record")], place) as controller:
        controller.prepare(4)  # an import of torch takes seconds: not while others wait
        controller.start(1)
        _until(controller, steps // 8)
        controller.scale(4)
        _until(controller, steps * 3 // 8)
        controller.kill(controller.members[2])
        _until(controller, steps * 4 // 8)
        controller.scale(4)
        _until(controller, steps * 6 // 8)
        controller.scale(2)
        codes = controller.wait()
        loss = json.loads(controller.log(0).splitlines()[-1])["loss"]
    records = read_records(place / "record")
    killed = {identity for identity, code in codes.items() if code != 0}
    faults = [*check(records, steps), *([] if len(killed) == 1 else [f"exit codes {codes}"])]

    calm = folder / "undisturbed"
    with LocalController(command, calm) as controller:
        controller.start(1)
        controller.wait()
        undisturbed = json.loads(controller.log(0).splitlines()[-1])["loss"]
    stalls = _stalls(records[0], ["grow 1 -> 4", "kill 1 of 4", "grow 3 -> 4", "shrink 4 -> 2"])
    pids = frozenset(line["pid"] for line in records[0])
    return Outcome(loss, undisturbed, stalls, tuple(faults), pids)


def check(records: Mapping[int, list[dict[str, Any]]], steps: int) -> list[str]:
    """What is wrong with what the workers have recorded: nothing, if all is well."""
    order = DataOrder(ITEMS, BATCH, seed=SEED)
    faults = []
    for identity, lines in records.items():
        # Whoever was in a step when another one died may have done its part and never have heard
        # that the step counts; it goes on with the state of somebody who has.
        if any(
            b["step"] - a["step"] not in ((1, 2) if b["generation"] > a["generation"] else (1,))
            for a, b in itertools.pairwise(lines)
        ):
            faults.append(f"worker {identity}: its steps are not one after the other")
        if len({line["pid"] for line in lines}) != 1:
            faults.append(f"worker {identity}: it was started again")
    for step in range(steps):
        lines = [line for rows in records.values() for line in rows if line["step"] == step]
        seen = sorted(item for line in lines for item in line["items"])
        # Who was killed in a step may have had no time to write it down: its items are not seen.
        size = max((line["size"] for line in lines), default=0)
        whole = sorted(order.whole(step).tolist())
        if seen != whole and not (len(lines) < size and set(seen) < set(whole)):
            faults.append(f"step {step}: {len(seen)} items were seen instead of {len(whole)}")
        if len({(line["size"], line["generation"]) for line in lines}) > 1:
            faults.append(f"step {step}: it was done by two groups")
        if len({line["loss"] for line in lines}) > 1:
            faults.append(f"step {step}: workers do not agree on its loss")
    return faults


def _until(controller: LocalController, step: int) -> None:
    """Wait until the training has come to a step."""
    controller.wait_said(0, "progress", lambda progress: progress["step"] >= step)


def read_records(folder: Path) -> Records:
    """What the workers have recorded, by identity; a line that a killed one did not end is none."""
    found: Records = {}
    for path in sorted(folder.glob("*.jsonl")):
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        found[int(path.stem)] = [json.loads(line) for line in whole.splitlines()]
    return found


def _stalls(lines: list[dict[str, Any]], whats: list[str]) -> tuple[Stall, ...]:
    """Times from one group's last update to the next one's first, less a step's usual time."""
    stalls = []
    for at, (last, first) in enumerate(itertools.pairwise(lines)):
        if last["generation"] != first["generation"]:
            near = [line["t"] for line in lines[max(at - 50, 0) : at + 52]]
            usual = statistics.median([b - a for a, b in itertools.pairwise(near)]) * 1e3
            gap = (first["t"] - last["t"]) * 1e3
            what = whats[len(stalls)] if len(stalls) < len(whats) else "another"
            stalls.append(Stall(what, gap - usual, first["idle_s"] * 1e3, usual))
    return tuple(stalls)


def main() -> None:
    """Run both, and print what came out."""
    parser = argparse.ArgumentParser(description="Elastic training, disturbed and undisturbed.")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--pause-ms", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, help="for records; else they are thrown away")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.perf_counter()
        outcome = run(
            options.folder or Path(scratch), steps=options.steps, pause_ms=options.pause_ms
        )
    print(f"{options.steps} steps, {time.perf_counter() - begun:.0f} s for both trainings")
    for stall in outcome.stalls:
        print(
            f"  {stall.what:14} stall {stall.ms:6.1f} ms, "
            f"{stall.regroup_ms:6.1f} ms of it regrouping"
            f" (a step: {stall.step_ms:.1f} ms)"
        )
    apart = abs(outcome.loss - outcome.undisturbed) / outcome.undisturbed
    print(f"loss {outcome.loss:.6f}, undisturbed {outcome.undisturbed:.6f}: {apart:.2%} apart")
    print("\n".join(outcome.faults) or "every item of every step was seen once; no step is missing")
    if outcome.faults or apart > 0.05:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
