"""Training goes on, step by step and bit by bit, whatever happens to its workers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from orchestrator.errors import ConfigurationError, ValidationError, WorkerLostError
from orchestrator.worker import (
    DataOrder,
    Elastic,
    LocalController,
    Share,
    manifests,
)
from orchestrator.worker.control import Control

_TRAIN = Path(__file__).resolve().parents[2] / "examples" / "elastic_training" / "train.py"
_SEEDING = threading.Lock()
_X = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
_Y = _X.sin().sum(dim=1, keepdim=True)


def _make(**options: Any) -> tuple[nn.Module, Elastic]:
    with _SEEDING:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    order = options.pop("order", DataOrder(50, 8, seed=2))
    return model, Elastic(model, optimizer, order, **options)


def _body(model: nn.Module, part: Share) -> None:
    loss = (model(_X[part.indices]) - _Y[part.indices]).square().mean()
    loss.backward()
    part.note(loss.detach())


def _train(steps: int, **options: Any) -> tuple[list[float], Elastic]:
    losses: list[float] = []
    box: list[Elastic] = []
    model, training = _make(after_step=lambda part: losses.append(box[0].loss), **options)
    box.append(training)
    with training:
        for part in training.steps(steps):
            _body(model, part)
    return losses, training


def _workers(size: int) -> list[Control]:
    """Workers that start together, as torchrun would start them; here, threads of this process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [Control({**common, "RANK": str(rank)}) for rank in range(size)]


def test_alone_it_is_plain_training() -> None:
    losses, training = _train(20)
    assert (training.step, training.size, training.stopped) == (20, 1, None)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    order, plain = DataOrder(50, 8, seed=2), []
    for step in range(20):
        indices = torch.from_numpy(order.whole(step))
        loss = (model(_X[indices]) - _Y[indices]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        plain.append(loss.item())
    assert losses == plain


@pytest.mark.parametrize("size", [2, 3, 9])
def test_on_many_workers_it_is_the_same_training(size: int) -> None:
    alone, _ = _train(15)
    with ThreadPoolExecutor(size) as pool:
        runs = [pool.submit(_train, 15, control=control) for control in _workers(size)]
        results = [run.result(120.0)[0] for run in runs]
    assert all(losses == results[0] for losses in results)
    assert results[0] == pytest.approx(alone, rel=1e-4)


def test_without_an_agent_a_lost_worker_is_an_error() -> None:
    def die(control: Control) -> None:
        model, training = _make(control=control)
        with training:
            for part in training.steps(20):
                _body(model, part)
                if part.step == 5:
                    return

    def survive(control: Control) -> None:
        with pytest.raises(WorkerLostError, match="start all workers again"):
            _train(20, control=control)

    first, second = _workers(2)
    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(die, first), pool.submit(survive, second)]:
            each.result(120.0)


def test_workers_with_another_order_are_refused() -> None:
    first, second = _workers(2)
    orders = [DataOrder(50, 8, seed=2), DataOrder(50, 8, seed=3)]
    with ThreadPoolExecutor(2) as pool:
        pairs = zip((first, second), orders, strict=True)
        runs = [pool.submit(_train, 3, control=c, order=order) for c, order in pairs]
        for run in runs:
            with pytest.raises(ValidationError, match="give all workers of a job the same"):
                run.result(120.0)


def test_terminated_it_saves_and_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, _ = _train(20)
    model, training = _make(folder=tmp_path, save_every=5)
    with training:
        for part in training.steps(20):
            if part.step == 11:
                os.kill(os.getpid(), signal.SIGTERM)
            _body(model, part)
    assert (training.step, training.stopped) == (12, "terminated")
    found = manifests.newest(tmp_path)
    assert found is not None
    assert (found.manifest.step, found.manifest.fraction) == (12, 0.6)
    rest, _ = _train(20, folder=tmp_path)
    assert rest == whole[12:]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_it_says_what_it_was_not_given() -> None:
    with pytest.raises(ConfigurationError, match="'save_every' is given"):
        _make(save_every=5)
    _, training = _make()
    with pytest.raises(ConfigurationError, match="it has not begun"):
        next(training.steps(1))
    stranger = Control({"RANK": "2", "WORLD_SIZE": "2"})
    model, training = _make(control=stranger)
    with training:
        steps = training.steps(1)
        part = next(steps)
        assert part.rehearsal
        _body(model, part)
        with pytest.raises(ValidationError, match="no agent says where to join"):
            next(steps)


@pytest.mark.slow
def test_an_agent_has_it_saved_and_stopped_and_it_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, str(_TRAIN), "--steps", "100000", "--pause-ms", "1"]
    with LocalController(command, tmp_path, variables=_variables()) as controller:
        controller.start(2)
        controller.wait_said(0, "progress", lambda progress: progress["step"] >= 20)
        for identity in controller.members:
            controller.tell(identity, {"save": 7})
        saved = [
            controller.wait_said(identity, "saved", lambda number: number == 7)
            for identity in controller.members
        ]
        assert saved == [7, 7]
        for identity in controller.members:
            controller.tell(identity, {"stop": "preempted"})
        assert controller.wait() == {0: 0, 1: 0}
        assert threading.active_count() < 20
    found = manifests.newest(tmp_path / "checkpoints")
    assert found is not None
    step = found.manifest.step
    with LocalController(command, tmp_path, variables=_variables()) as controller:
        controller.start(1)
        first = controller.wait_said(0, "progress", lambda progress: progress["step"] > 0)
        assert first["step"] > step
        controller.tell(0, {"stop": "enough"})
        assert controller.wait() == {0: 0}


def _variables() -> dict[str, str]:
    return {"PYTHONPATH": str(_TRAIN.parents[2])}


@pytest.mark.slow
def test_whoever_writes_and_hosts_may_die_too(tmp_path: Path) -> None:
    command = [sys.executable, str(_TRAIN), "--steps", "100000", "--pause-ms", "1"]
    with LocalController(command, tmp_path, variables=_variables()) as controller:
        controller.start(3)
        before = controller.wait_said(0, "progress", lambda progress: progress["step"] >= 20)
        processes = controller.processes
        controller.kill(0)
        for identity in (1, 2):
            assert controller.wait_said(identity, "joined", lambda generation: generation == 1) == 1
        after = controller.wait_said(1, "progress", lambda progress: progress["step"] > 0)
        assert after["step"] >= before["step"]
        for identity in controller.members:
            controller.tell(identity, {"save": 1})
        for identity in controller.members:
            controller.wait_said(identity, "saved", lambda number: number == 1)
        assert controller.processes == {i: processes[i] for i in (1, 2)}
        for identity in controller.members:
            controller.tell(identity, {"stop": "enough"})
        assert controller.wait() == {0: -9, 1: 0, 2: 0}
    found = manifests.newest(tmp_path / "checkpoints")
    assert found is not None
    assert found.manifest.step > before["step"]
