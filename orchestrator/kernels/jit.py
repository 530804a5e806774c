"""Compilation settings, in one place."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

# At level 3 the compiler spends four times as long on these branchy functions, and the result is
# no faster (measured on rule replays: 27 s against 114 s). NUMBA_OPT still overrides it.
if "NUMBA_OPT" not in os.environ:
    _config: Any = numba.config
    _config.OPT = type(_config.OPT)(2)

__all__ = ["kernel", "small_kernel"]

_F = TypeVar("_F", bound=Callable[..., Any])


def kernel(function: _F) -> _F:
    """Compile in nopython mode and cache the machine code on disk."""
    return cast(_F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def small_kernel(function: _F) -> _F:
    """Like :func:`kernel`, always inlined: for functions of a few instructions."""
    return cast(
        _F,
        numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=True)(function),
    )
