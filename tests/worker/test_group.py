"""Groups beside each other, members that leave, states that are handed on; in one process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from orchestrator.errors import ValidationError
from orchestrator.worker.control import World
from orchestrator.worker.group import Group, GroupBrokenError
from orchestrator.worker.state import Averager, fingerprint, pack, share, unpack

_PATIENCE_S = 20.0


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _form(size: int, generation: int = 1) -> list[Group]:
    master = f"127.0.0.1:{_port()}"
    worlds = [World(generation, tuple(range(size)), master, rank, size) for rank in range(size)]
    return _all([lambda w=w: Group(w, _PATIENCE_S, threading.Event()) for w in worlds])


def _all(calls: list[Callable[[], Any]]) -> list[Any]:
    """What calls give that only return together."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [each.result(60.0) for each in [pool.submit(call) for call in calls]]


def test_rows_are_everybody_s_and_the_buffer_is_their_sum() -> None:
    groups = _form(3)
    flats = [torch.full((5,), float(rank)) for rank in range(3)]
    rows = _all([lambda g=g: g.exchange([g.rank, 7], flats[g.rank]) for g in groups])
    assert rows == [[[0, 7], [1, 7], [2, 7]]] * 3
    assert [flat.tolist() for flat in flats] == [[3.0] * 5] * 3
    for group in groups:
        group.close()


def test_a_group_is_formed_beside_one_at_work() -> None:
    first, second = _form(2, 1), _form(2, 2)
    for groups in (second, first, second):
        rows = _all([lambda g=g: g.exchange([g.world.generation]) for g in groups])
        assert rows == [[[groups[0].world.generation]] * 2] * 2
    for group in (*first, *second):
        group.close()


def test_who_leaves_breaks_the_group_for_all_others() -> None:
    groups = _form(3)
    groups[1].close()

    def exchange(group: Group) -> str:
        with pytest.raises(GroupBrokenError, match="of generation 1") as caught:
            group.exchange([0], torch.zeros(1000))
        group.close()
        return str(caught.value)

    assert len(_all([lambda g=g: exchange(g) for g in (groups[0], groups[2])])) == 2


def test_who_does_not_come_is_waited_for_until_that_is_cancelled() -> None:
    cancelled = threading.Event()
    world = World(1, (0, 1), f"127.0.0.1:{_port()}", 0, 2)
    with ThreadPoolExecutor(1) as pool:
        forming = pool.submit(Group, world, 600.0, cancelled)
        cancelled.set()
        with pytest.raises(GroupBrokenError, match="not all members came"):
            forming.result(30.0)
    with pytest.raises(GroupBrokenError, match="no store at"):
        Group(World(1, (0, 1), f"127.0.0.1:{_port()}", 1, 2), 0.05, threading.Event())


def test_one_worker_alone_needs_nobody() -> None:
    group = Group(World(1, (4,), "127.0.0.1:0", 0, 1), 1.0, threading.Event())
    flat = torch.ones(3)
    assert group.exchange([1, 2], flat) == [[1, 2]]
    assert flat.tolist() == [1.0] * 3
    with pytest.raises(ValidationError, match="only a member"):
        Group(World(1, (4,), "127.0.0.1:0", None, 1), 1.0, threading.Event())


def _state() -> dict[str, Any]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    odd = [torch.tensor(True), torch.arange(3, dtype=torch.int16), torch.ones(2).bfloat16()]
    extras = {"odd": odd, "empty": torch.zeros(0), "text": "x", "none": None, 5: (1, 2.5)}
    return {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict(), "e": extras}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return bool(torch.equal(one, other)) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        same = type(one) is type(other) and len(one) == len(other)
        return same and all(map(_equal, one, other))
    return bool(one == other)


def test_a_packed_state_is_the_same_state() -> None:
    state = _state()
    assert _equal(state, unpack(pack(state)))
    assert not _equal(state, {**state, "e": {}})


def test_a_state_is_handed_to_everybody() -> None:
    groups = _form(3)
    states = [None, _state(), None]
    shown = _all([lambda g=g: share(g, 1, states[g.rank]) for g in groups])
    assert all(_equal(states[1], each) for each in shown)
    for group in groups:
        group.close()


def test_fingerprints_tell_states_apart() -> None:
    state = _state()
    mark = fingerprint(state)
    assert fingerprint(unpack(pack(state))) == mark
    for tensor in (state["model"]["0.bias"], state["e"]["odd"][1], state["e"]["odd"][2]):
        value = tensor[1].clone()
        tensor[1] += 1
        assert fingerprint(state) != mark
        tensor[1] = value
    assert fingerprint(state) == mark


def test_gradients_are_averaged_and_missing_ones_stay_missing() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 1, bias=False), "b": nn.Linear(2, 1, bias=False)})
    model["a"](torch.ones(1, 2)).sum().backward()
    averager = Averager(model, 1)
    flat = averager.fill(0.25, [8.0])
    assert flat.tolist() == [0.25, 0.25, 0.0, 0.0, 1.0, 0.0, 2.0]
    flat *= 2
    assert averager.take() == [4.0]
    assert model["a"].weight.grad is not None
    assert model["a"].weight.grad.tolist() == [[0.5, 0.5]]
    assert model["b"].weight.grad is None
    assert averager.fill(0.0, [0.0]).tolist() == [0.0] * 7
