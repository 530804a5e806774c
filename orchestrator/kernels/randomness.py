"""Counter-based random numbers: a pure function of (seed, stream, counter).

The mixing function is SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.jit import small_kernel

__all__ = ["mix", "random_below", "random_bits", "random_unit"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL2 = np.uint64(0x94D049BB133111EB)
_S30 = np.uint64(30)
_S27 = np.uint64(27)
_S31 = np.uint64(31)
_S11 = np.uint64(11)
_S32 = np.uint64(32)


@small_kernel
def mix(value):
    """Mix 64 bits (uint64 -> uint64)."""
    value = np.uint64(value)
    value = (value ^ (value >> _S30)) * _MUL1
    value = (value ^ (value >> _S27)) * _MUL2
    return value ^ (value >> _S31)


@small_kernel
def random_bits(seed, stream, counter):
    """64 random bits for a (seed, stream, counter)."""
    key = mix(np.uint64(seed) + _GOLDEN * np.uint64(stream))
    return mix(key + _GOLDEN * (np.uint64(counter) + np.uint64(1)))


@small_kernel
def random_unit(seed: int | np.uint64, stream: int, counter: int) -> float:
    """Uniform float64 in [0, 1)."""
    return np.float64(random_bits(seed, stream, counter) >> _S11) * (1.0 / 9007199254740992.0)


@small_kernel
def random_below(seed, stream, counter, bound):
    """Integer in [0, bound), for bounds below 2**32 (bias under bound / 2**32)."""
    high = random_bits(seed, stream, counter) >> _S32
    return np.int64((high * np.uint64(bound)) >> _S32)
