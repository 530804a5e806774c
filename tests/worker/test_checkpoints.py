"""What is saved is loaded, bit for bit, on any number of ranks; what is damaged is not."""

from __future__ import annotations

import logging
import multiprocessing as mp
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from orchestrator.errors import CheckpointError, SaveDeadlineError
from orchestrator.worker import Checkpoints, manifests
from orchestrator.worker import checkpoints as module


def _make(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.sum(dim=1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("steps", [0, 5])
def test_training_goes_on_as_if_nothing_had_happened(tmp_path: Path, steps: int) -> None:
    model, optimizer = _make()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    extras = {"scheduler": schedule}
    _train(model, optimizer, range(steps))
    schedule.last_epoch = 1
    Checkpoints(tmp_path, model, optimizer, extras=extras).save(steps, fraction=0.25)
    expected = _train(model, optimizer, range(steps, steps + 5))

    other, its_optimizer = _make(seed=9)
    its_schedule = torch.optim.lr_scheduler.StepLR(its_optimizer, 3)
    restored = Checkpoints(
        tmp_path, other, its_optimizer, extras={"scheduler": its_schedule}
    ).load()
    assert restored is not None
    assert (restored.step, restored.fraction, restored.skipped) == (steps, 0.25, ())
    assert its_schedule.last_epoch == 1
    assert _train(other, its_optimizer, range(steps, steps + 5)) == expected


def test_a_save_beside_the_training_is_of_its_own_step(tmp_path: Path) -> None:
    model, optimizer = _make()
    _train(model, optimizer, range(3))
    checkpoints = Checkpoints(tmp_path, model, optimizer)
    save = checkpoints.save_async(3)
    after = _train(model, optimizer, range(3, 6))
    assert save.result().name == "step-000000000003"
    assert 0.0 < save.stall_s <= save.total_s
    other, its_optimizer = _make(seed=9)
    assert Checkpoints(tmp_path, other, its_optimizer).load() is not None
    assert _train(other, its_optimizer, range(3, 6)) == after


def test_a_damaged_checkpoint_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = _make()
    checkpoints = Checkpoints(tmp_path, model, optimizer)
    assert checkpoints.load() is None
    folders = []
    for step in (1, 2):
        _train(model, optimizer, range(step - 1, step))
        folders.append(checkpoints.save(step))
    data = next(folders[1].glob("*.distcp"))
    body = bytearray(data.read_bytes())
    body[len(body) // 2] ^= 0xFF
    data.write_bytes(body)
    with caplog.at_level(logging.WARNING):
        restored = checkpoints.load()
    assert restored is not None
    assert (restored.step, [folder for folder, _ in restored.skipped]) == (1, [folders[1]])
    assert "is passed over: it has another checksum" in caplog.text
    (folders[0] / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="none of 2 checkpoints verifies"):
        checkpoints.load()


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    model, optimizer = _make()
    checkpoints = Checkpoints(tmp_path, model, optimizer, keep=2)
    for step in range(1, 6):
        checkpoints.save(step)
    assert [path.name[-1] for path in manifests.steps(tmp_path)] == ["5", "4"]


def test_a_save_that_hangs_never_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = _make()
    checkpoints = Checkpoints(tmp_path, model, optimizer, deadline_s=0.2)
    disk = threading.Event()
    seal = manifests.seal

    def hang(*args: Any) -> Any:
        assert disk.wait(30.0)
        return seal(*args)

    monkeypatch.setattr(module.manifests, "seal", hang)
    save = checkpoints.save_async(1)
    with pytest.raises(SaveDeadlineError, match="save of step 1: not complete after"):
        save.result()
    assert save.done()
    with pytest.raises(CheckpointError, match="that of step 1 is still being written"):
        checkpoints.save_async(2)
    disk.set()
    assert save._over.wait(30.0)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    checkpoints._deadline_s = 60.0
    assert checkpoints.save(3).is_dir()


def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = _make()
    checkpoints = Checkpoints(tmp_path, model, optimizer)

    def full(*args: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.manifests, "seal", full)
    with pytest.raises(CheckpointError, match="No space left on device; the checkpoint before"):
        checkpoints.save(1)
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_refused(tmp_path: Path) -> None:
    model, optimizer = _make()
    Checkpoints(tmp_path, model, optimizer).save(1)
    other = nn.Linear(3, 3)
    checkpoints = Checkpoints(tmp_path, other, torch.optim.AdamW(other.parameters()))
    with pytest.raises(CheckpointError, match="does not fit this model and optimizer"):
        checkpoints.load()


def test_bad_settings_are_named(tmp_path: Path) -> None:
    model, optimizer = _make()
    with pytest.raises(CheckpointError, match="'keep' is 0"):
        Checkpoints(tmp_path, model, optimizer, keep=0)
    with pytest.raises(CheckpointError, match="'deadline_s' is 0"):
        Checkpoints(tmp_path, model, optimizer, deadline_s=0.0)


def _sharded(rank: int, size: int, port: int, folder: str, out: Any) -> None:
    """A rank of a sharded model: two save, any number load."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("cpu:gloo", rank=rank, world_size=size)
    model, optimizer = _make(seed=size)
    fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    checkpoints = Checkpoints(folder, model, optimizer)
    if size == 2:
        _train(model, optimizer, range(4))
        save = checkpoints.save_async(4)
        step, world = 4, size
        assert save.result().is_dir()
        checkpoints.wait()
    else:
        restored = checkpoints.load()
        assert restored is not None
        step, world = restored.step, restored.world_size
    losses = _train(model, optimizer, range(step, step + 3))
    if rank == 0:
        out.put((world, losses))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_saved_on_two_ranks_loaded_on_one_and_three(tmp_path: Path) -> None:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([_sharded.__module__])  # torch, once for all six
    out = context.Queue()
    results = []
    for size in (2, 1, 3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        args = [(rank, size, port, str(tmp_path), out) for rank in range(size)]
        ranks = [context.Process(target=_sharded, args=each) for each in args]
        for each in ranks:
            each.start()
        for each in ranks:
            each.join(240)
            assert each.exitcode == 0
        results.append(out.get(timeout=10))
    assert [world for world, _ in results] == [2, 2, 2]
    for _, losses in results[1:]:
        assert losses == pytest.approx(results[0][1], rel=1e-6)
