"""SplitMix64 in Python integers, and the event log's hash."""

from __future__ import annotations

from collections.abc import Iterable

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_PRIME = 0x100000001B3


class SplitMix64:
    """The generator as published: a counter that is mixed."""

    def __init__(self, state: int) -> None:
        self.state = state & _MASK

    def next(self) -> int:
        self.state = (self.state + _GOLDEN) & _MASK
        return mix(self.state)


def mix(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def random_bits(seed: int, stream: int, counter: int) -> int:
    return mix(mix(seed + _GOLDEN * stream) + _GOLDEN * (counter + 1))


def random_unit(seed: int, stream: int, counter: int) -> float:
    return (random_bits(seed, stream, counter) >> 11) / 2**53


def random_below(seed: int, stream: int, counter: int, bound: int) -> int:
    return ((random_bits(seed, stream, counter) >> 32) * bound) >> 32


def placement_word(spots: list[tuple[int, tuple[int, ...]]]) -> int:
    """What the log says of a gang's placement."""
    word = len(spots)
    for node, devices in spots:
        word = ((word ^ (node + 1)) * _GOLDEN) & _MASK
        word = ((word ^ sum(1 << g for g in devices)) * _GOLDEN) & _MASK
    return word & 0xFFFFFF


def log_hash(records: Iterable[tuple[int, int, int, int]]) -> int:
    """Hash of an event log, from its records (time_ms, kind, subject, value)."""
    total = 0
    for time_ms, kind, subject, value in records:
        word = (time_ms << 20) ^ (kind << 16) ^ ((subject * _PRIME) & _MASK) ^ (value << 40)
        total = mix(((total ^ (word & _MASK)) * _PRIME) & _MASK)
    return total
