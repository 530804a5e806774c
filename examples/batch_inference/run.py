"""Classify a few thousand items while workers are preempted and killed, and count what came out.

python examples/batch_inference/run.py [--folder results/batch]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from infer import CLASSES, ITEMS, SHARD, make_inputs, make_model
from torch import nn

from orchestrator.worker import BatchCheck, check_output

WORKER = Path(__file__).with_name("infer.py")
_WAIT_S = 300.0


def make_model_file(path: Path) -> nn.Module:
    """Train the model a little, and write its file."""
    torch.manual_seed(0)
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x = make_inputs()[:1000]
    wanted = x[:, :CLASSES].argmax(dim=1)
    for _ in range(100):
        nn.functional.cross_entropy(model(x), wanted).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.state_dict(), path)
    return model


def run(folder: Path, *, pause_ms: float = 100.0) -> tuple[BatchCheck, list[str]]:
    """Two workers, of which one is preempted and one killed, and two who do the rest."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model_file(folder / "model.pt")
    output, said = folder / "output", []
    paths = ["--model", str(folder / "model.pt"), "--output", str(output)]
    command = [sys.executable, str(WORKER), *paths, "--pause-ms"]
    first = [_start([*command, str(pause_ms)], rank) for rank in range(2)]
    try:
        _wait_for_items(output, 400)
        first[0].terminate()
        first[1].kill()
        rest = [_start([*command, "0"], rank) for rank in range(2)]
        first += rest
        for worker, name in zip(first, ("preempted", "killed", "third", "fourth"), strict=True):
            text, _ = worker.communicate(timeout=_WAIT_S)
            said.append(f"{name}: {text.strip() or 'said nothing'} (exit code {worker.returncode})")
    finally:
        for worker in first:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
    with torch.inference_mode():
        labels = model(make_inputs()).argmax(dim=1).tolist()
    return check_output(output, lambda item, result: result == labels[item]), said


def _start(command: list[str], rank: int) -> subprocess.Popen[str]:
    """A worker: one of two."""
    variables = {"OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": "2"}
    return subprocess.Popen(
        command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
    )


def _wait_for_items(output: Path, items: int) -> None:
    """Wait until both workers have begun, each with its own shard, and some items are done."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        found = sorted(output.glob("shard-*.jsonl"))
        counts = {path.stem[-6:]: path.read_bytes().count(b"\n") for path in found}
        begun = counts.get("000000") and counts.get(f"{ITEMS // SHARD // 2:06d}")
        if begun and sum(counts.values()) >= items:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{sum(counts.values())} of {items} items after {_WAIT_S:g} s")
        time.sleep(0.02)


def main() -> None:
    """Run it, and print what came out."""
    parser = argparse.ArgumentParser(description="Batch inference, disturbed.")
    parser.add_argument("--folder", type=Path, help="for the output; else it is thrown away")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        checked, said = run(options.folder or Path(scratch))
    print("\n".join(said))
    print(checked)
    if not checked.complete or checked.items != ITEMS:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
