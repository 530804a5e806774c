"""What callers give to environments: of which type, shape and range, and what to give instead."""

from __future__ import annotations

import numbers
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError

__all__ = [
    "action_number",
    "check_flag",
    "check_type",
    "flags",
    "integer",
    "integers",
    "seed_numbers",
    "seed_of",
]

_INT64 = np.iinfo(np.int64)
_MOST_SEED = int(np.iinfo(np.uint64).max)


def check_type(what: str, value: Any, kind: type, remedy: str) -> None:
    """Raise if a value is not of a type.

    Parameters
    ----------
    what : str
        The thing that was given, for messages: ``"environment: 'trace'"``.
    value : Any
    kind : type
    remedy : str
        What to give instead.

    Raises
    ------
    ConfigurationError
    """
    if not isinstance(value, kind):
        raise ConfigurationError(f"{what} is a {type(value).__name__}; give {remedy}")


def check_flag(what: str, value: Any) -> None:
    """Raise if a value is neither true nor false (0 and 1 are)."""
    if not (isinstance(value, bool | np.bool_ | numbers.Integral) and value in (0, 1)):
        raise ConfigurationError(f"{what} is {value!r}; give true or false")


def integer(what: str, value: Any, least: int = 0) -> int:
    """An integer, NumPy's among them, of at least ``least``.

    Parameters
    ----------
    what : str
        As for :func:`check_type`.
    value : Any
    least : int

    Raises
    ------
    ConfigurationError
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ConfigurationError(f"{what} is {value!r}; give an integer of at least {least}")
    return int(value)


def integers(what: str, values: Any) -> NDArray[np.int64]:
    """Integers as kernels take them: an array of int64, contiguous and writeable.

    Kernels would be compiled anew for any other.

    Parameters
    ----------
    what : str
        As for :func:`check_type`.
    values : array_like of int

    Raises
    ------
    ConfigurationError
    """
    array = _array(what, values, "integers")
    if array.size > 0:
        if array.dtype.kind not in "iu":
            raise ConfigurationError(f"{what} is an array of {array.dtype}; give integers")
        if array.dtype.kind == "u" and array.max() > _INT64.max:
            raise ConfigurationError(f"{what} has {array.max()}; give at most {_INT64.max}")
    return np.array(array, np.int64, order="C")


def flags(what: str, values: Any) -> NDArray[np.bool_]:
    """An array of bool, as :func:`integers` makes one of int64."""
    array = _array(what, values, "values of bool")
    if array.dtype != np.bool_:
        raise ConfigurationError(f"{what} is an array of {array.dtype}; give values of bool")
    return np.array(array, order="C")


def action_number(value: Any) -> int:
    """One action as an integer of 64 bits.

    Parameters
    ----------
    value : int, numpy.integer or integer array of no dimension

    Raises
    ------
    ConfigurationError
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ConfigurationError(
            f"step: the action is {value!r}; give one integer, for example "
            f"env.action_space.sample()"
        ) from None
    if not _INT64.min <= number <= _INT64.max:
        raise ConfigurationError(f"step: the action is {number}; give an integer of 64 bits")
    return number


def seed_of(value: Any) -> int | None:
    """A seed, or None for one from the operating system.

    Raises
    ------
    ConfigurationError
        If it is neither None nor an integer of at least 0.
    """
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return integer("'seed'", value)


def seed_numbers(what: str, values: Any, rows: int) -> NDArray[np.uint64]:
    """Seeds of rows, uint64 [rows], each between 0 and 2**64 - 1."""
    array = _array(what, values, "seeds")
    if array.shape != (rows,):
        raise ConfigurationError(
            f"{what} has shape {array.shape}; give one for each of {rows} rows"
        )
    given = [integer(what, seed) for seed in array.tolist()]
    if max(given) > _MOST_SEED:
        raise ConfigurationError(f"{what} has {max(given)}; give at most {_MOST_SEED}")
    return np.array(given, np.uint64)


def _array(what: str, values: Any, wanted: str) -> NDArray[Any]:
    """Whatever was given as an array."""
    try:
        return np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigurationError(f"{what} is no array; give {wanted}") from error
