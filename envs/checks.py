"""What callers give: of which type, shape and range, and what to give instead."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError

__all__ = [
    "MOST_SEED",
    "MOST_WINDOW",
    "action_number",
    "check_finite",
    "check_flag",
    "check_type",
    "check_whole",
    "flags",
    "integers",
    "is_finite",
    "is_whole",
    "seed_numbers",
    "seed_of",
]

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1  # of int64
MOST_SEED = (1 << 64) - 1  # of a row
MOST_WINDOW = _MOST  # that can be asked for; how many there are depends on the environment


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


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, NumPy's among them; truth values are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a finite real number; whole numbers are, truth values are not."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and math.isfinite(value)


def check_whole(what: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number within bounds, as Python's own.

    Parameters
    ----------
    what : str
        As for :func:`check_type`.
    value : Any
    least, most : int or None, optional
        Bounds that are allowed themselves.

    Raises
    ------
    ConfigurationError
    """
    if is_whole(value) and _within(value, least, most):
        return int(value)
    raise ConfigurationError(f"{what} is {value!r}; give a whole number{_range(least, most)}")


def check_finite(
    what: str,
    value: Any,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
) -> float:
    """A finite number within bounds, as Python's own.

    Parameters
    ----------
    what : str
        As for :func:`check_type`.
    value : Any
    least, most : float or None, optional
        Bounds that are allowed themselves.
    above : float or None, optional
        A lower bound that is not.

    Raises
    ------
    ConfigurationError
    """
    if is_finite(value) and _within(value, least, most) and (above is None or value > above):
        return float(value)
    beyond = "" if above is None else f" above {above:g}"
    raise ConfigurationError(
        f"{what} is {value!r}; give a finite number{beyond}{_range(least, most)}"
    )


def _within(value: Any, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _range(least: float | None, most: float | None) -> str:
    """Bounds in words."""
    if most is None:
        return "" if least is None else f" that is at least {least}"
    return f", at most {most}" if least is None else f" from {least} to {most}"


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
        if array.dtype.kind == "u" and array.max() > _MOST:
            raise ConfigurationError(f"{what} has {array.max()}; give at most {_MOST}")
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
    number = value if type(value) is int else _index(value)
    if not _LEAST <= number <= _MOST:
        raise ConfigurationError(f"step: the action is {number}; give a whole number of 64 bits")
    return number


def _index(value: Any) -> int:
    """What is as good as an int; truth values are not."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ConfigurationError(
            f"step: the action is {value!r}; give one whole number, for example "
            f"env.action_space.sample()"
        ) from None


def seed_of(value: Any) -> int | None:
    """A seed, or None for one from the operating system.

    Raises
    ------
    ConfigurationError
        If it is neither None nor a whole number of at least 0.
    """
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return check_whole("'seed'", value, 0)


def seed_numbers(what: str, values: Any, rows: int) -> NDArray[np.uint64]:
    """Seeds of rows, uint64 [rows], each between 0 and 2**64 - 1."""
    array = _array(what, values, "seeds")
    if array.shape != (rows,):
        raise ConfigurationError(
            f"{what} has shape {array.shape}; give one for each of {rows} rows"
        )
    given = [check_whole(what, seed, 0, MOST_SEED) for seed in array.tolist()]
    return np.array(given, np.uint64)


def _array(what: str, values: Any, wanted: str) -> NDArray[Any]:
    """Whatever was given as an array."""
    try:
        return np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigurationError(f"{what} is no array; give {wanted}") from error
