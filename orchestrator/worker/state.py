"""What a newcomer needs to go on where the others are: the whole state, as one flat buffer."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.worker.group import Group

__all__ = ["Averager", "Packed", "fingerprint", "pack", "rehearse", "share", "unpack"]

_ALIGNMENT = 16
_MASK = (1 << 62) - 1


@dataclass(frozen=True)
class _Slot:
    """Where a tensor of a state lies in the buffer."""

    begin: int
    bytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """A state: its form, in which places stand for tensors, and these, one after the other."""

    form: Any
    slots: tuple[_Slot, ...]
    buffer: torch.Tensor


class _Place(int):
    """Stands for a tensor: its number."""


def pack(state: Any) -> Packed:
    """A nested state with all its tensors copied into one buffer."""
    tensors: list[torch.Tensor] = []
    form = _map(state, lambda tensor: _note(tensors, tensor))
    slots, end = [], 0
    for tensor in tensors:
        length = tensor.numel() * tensor.element_size()
        slots.append(_Slot(end, length, tensor.dtype, tuple(tensor.shape)))
        end += -(-length // _ALIGNMENT) * _ALIGNMENT
    buffer = torch.zeros(end, dtype=torch.uint8)
    for slot, tensor in zip(slots, tensors, strict=True):
        _view(buffer, slot).copy_(tensor.detach())
    return Packed(form, tuple(slots), buffer)


def unpack(packed: Packed) -> Any:
    """The state, with tensors of their own."""
    tensors = [_view(packed.buffer, slot).clone() for slot in packed.slots]
    return _map(packed.form, None, tensors)


def fingerprint(state: Any) -> int:
    """A number that differs if any tensor of a state does (nearly always)."""
    tensors: list[torch.Tensor] = []
    _map(state, lambda tensor: _note(tensors, tensor))
    total = len(tensors)
    for tensor in tensors:
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        whole = raw.numel() // 8 * 8
        words = int(raw[:whole].view(torch.int64).sum()) if whole else 0
        rest = int(raw[whole:].sum()) if whole < raw.numel() else 0
        total = (total * 1_000_003 + words + rest) & _MASK
    return total


def rehearse(state: Any) -> None:
    """Do what is done to hand a state on, but for handing it on: modules load when first used."""
    packed = pack(state)
    unpack(_read(_head(packed), packed.buffer))
    fingerprint(state)


def share(group: Group, source: int, state: Any) -> Any:
    """The state of one member, on all of them; on that one, the same object."""
    packed = pack(state) if group.rank == source else None
    head = b"" if packed is None else _head(packed)
    lengths = torch.tensor([len(head), 0 if packed is None else packed.buffer.numel()])
    group.broadcast(lengths, source)
    text = torch.zeros(int(lengths[0]), dtype=torch.uint8)
    if packed is not None:
        text.copy_(torch.frombuffer(bytearray(head), dtype=torch.uint8))
    group.broadcast(text, source)
    buffer = torch.empty(int(lengths[1]), dtype=torch.uint8) if packed is None else packed.buffer
    if buffer.numel():
        group.broadcast(buffer, source)
    if packed is not None:
        return state
    return unpack(_read(text.numpy().tobytes(), buffer))


def _head(packed: Packed) -> bytes:
    """All of a packed state but its buffer."""
    slots = [(s.begin, s.bytes, str(s.dtype), s.shape) for s in packed.slots]
    return pickle.dumps({"form": packed.form, "slots": slots})


def _read(head: bytes, buffer: torch.Tensor) -> Packed:
    """A packed state from its parts, which come from a member of the same job."""
    said = pickle.loads(head)
    slots = [_Slot(at, n, getattr(torch, name[6:]), shape) for at, n, name, shape in said["slots"]]
    return Packed(said["form"], tuple(slots), buffer)


class Averager:
    """Gradients as one flat buffer, which is summed over all workers, and back.

    Behind them stand, for every parameter, how many workers have a gradient for it, and what else
    is to be averaged. Everything is in single precision, or double where a parameter is.

    Parameters
    ----------
    model : torch.nn.Module
        Whose gradients.
    values : int
        How many numbers are averaged besides.
    """

    def __init__(self, model: torch.nn.Module, values: int) -> None:
        self._parameters = [each for each in model.parameters() if each.requires_grad]
        double = any(each.dtype == torch.float64 for each in self._parameters)
        size = sum(each.numel() for each in self._parameters)
        dtype = torch.float64 if double else torch.float32
        self._gradients = size
        self.flat = torch.zeros(size + len(self._parameters) + values, dtype=dtype)

    def fill(self, weight: float, values: list[float]) -> torch.Tensor:
        """The buffer with this worker's gradients and values, weighted."""
        at = 0
        for number, parameter in enumerate(self._parameters):
            part = self.flat[at : at + parameter.numel()]
            at += parameter.numel()
            has = parameter.grad is not None and weight > 0.0
            if has and parameter.grad is not None:
                torch.mul(parameter.grad.detach().reshape(-1).to(part), weight, out=part)
            else:
                part.zero_()
            self.flat[self._gradients + number] = float(has)
        tail = self.flat[self._gradients + len(self._parameters) :]
        tail.copy_(torch.tensor([weight * value for value in values], dtype=tail.dtype))
        return self.flat

    def take(self) -> list[float]:
        """Give the averages to the parameters; the values' averages.

        A parameter for which nobody has a gradient is left without one.
        """
        at = 0
        has = self.flat[self._gradients : self._gradients + len(self._parameters)] > 0
        for there, parameter in zip(has.tolist(), self._parameters, strict=True):
            part = self.flat[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()
            if not there:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = part.to(parameter, copy=True)
            else:
                parameter.grad.copy_(part)
        values: list[float] = self.flat[self._gradients + len(self._parameters) :].tolist()
        return values


def _note(tensors: list[torch.Tensor], tensor: torch.Tensor) -> _Place:
    """Put a tensor at the end of a list; its place there."""
    tensors.append(tensor)
    return _Place(len(tensors) - 1)


def _map(node: Any, change: Any, tensors: list[torch.Tensor] | None = None) -> Any:
    """A nested state with tensors replaced by places, or places by tensors."""
    if isinstance(node, torch.Tensor):
        return change(node) if change is not None else node
    if isinstance(node, _Place) and tensors is not None:
        return tensors[node]
    if isinstance(node, Mapping):
        return {key: _map(value, change, tensors) for key, value in node.items()}
    if isinstance(node, list | tuple):
        made = [_map(value, change, tensors) for value in node]
        return made if isinstance(node, list) else tuple(made)
    return node


def _view(buffer: torch.Tensor, slot: _Slot) -> torch.Tensor:
    """A tensor inside the buffer."""
    return buffer[slot.begin : slot.begin + slot.bytes].view(slot.dtype).view(slot.shape)
