"""Numbers that kernels compute: counter-based random bits and a fast logarithm.

The mixing function is SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014).

``math.log`` is a call per element, and dominates feature encoding; this one is a handful of
multiplications: the exponent comes from the bits, the mantissa from a polynomial.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from orchestrator.kernels.lang.jit import small_kernel

__all__ = ["fast_log", "log_seconds", "mix", "random_below", "random_bits", "random_unit"]


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


@intrinsic
def _bits_of(typing_context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _from_bits(typing_context, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


_SPLIT = np.int32(0x3F3504F3)  # bits of sqrt(1/2): the mantissa is reduced to [.71, 1.41]


_SHIFT = np.int32(23)


_LN2 = np.float32(0.6931471805599453)


# (log(1 + f) - f) / f^2 as a polynomial of f on [-.2929, .4142]: least squares on Chebyshev nodes,
# degree 8; largest relative error of the logarithm's mantissa part below 3e-7.
COEFFICIENTS = (
    np.float32(-0.499999977),
    np.float32(0.333333215),
    np.float32(-0.250007722),
    np.float32(0.200019689),
    np.float32(-0.166276),
    np.float32(0.141890003),
    np.float32(-0.131016338),
    np.float32(0.128217494),
    np.float32(-0.078666676),
)


_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8 = COEFFICIENTS


_ONE = np.float32(1.0)


@small_kernel
def fast_log(value):
    """Natural logarithm of a positive, normal float32; absolute error below 1e-6 times its size."""
    bits = _bits_of(np.float32(value))
    exponent = (bits - _SPLIT) >> _SHIFT
    f = _from_bits(np.int32(bits - (exponent << _SHIFT))) - _ONE
    p = _C7 + f * _C8
    p = _C6 + f * p
    p = _C5 + f * p
    p = _C4 + f * p
    p = _C3 + f * p
    p = _C2 + f * p
    p = _C1 + f * p
    p = _C0 + f * p
    return np.float32(exponent) * _LN2 + (f + f * f * p)


@small_kernel
def log_seconds(ms):
    """The feature of a time: ``.1 ln(1 + seconds)``, float32; negative times count as none."""
    return np.float32(0.1) * fast_log(np.float32(1.0 + max(ms, 0) / 1000.0))
