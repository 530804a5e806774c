"""What settings must be, field by field: said in one line, with the field and the remedy."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from envs.checks import check_whole, is_finite, is_whole
from orchestrator.errors import ConfigurationError

__all__ = [
    "check_bounds",
    "check_kind",
    "check_number",
    "check_seed",
    "check_types",
    "check_weights",
]

_MOST_SEED = 2**32 - 1  # of NumPy's old generators, which libraries seed
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "null",
}


def check_types(subject: str, settings: Any) -> None:
    """Refuse fields of a dataclass whose values are not of the annotated type.

    Parameters
    ----------
    subject : str
        What the settings are of, for the message.
    settings : dataclass
        Fields that are no plain values (such as mappings) may be anything of their kind.

    Raises
    ------
    ConfigurationError
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        if not any(_is_of(value, kind) for kind in kinds):
            wanted = " or ".join(_words(kind) for kind in kinds)
            raise ConfigurationError(f"{subject}: '{field.name}' is {value!r}; give {wanted}")


def check_bounds(
    subject: str,
    settings: Any,
    least: Mapping[str, float],
    most: Mapping[str, float] | None = None,
    above: Mapping[str, float] | None = None,
) -> None:
    """Refuse fields outside of their bounds; null is in bounds.

    Parameters
    ----------
    subject : str
    settings : object
    least, most : mapping of str to float
        Bounds that are allowed themselves.
    above : mapping of str to float, optional
        Bounds that are not.

    Raises
    ------
    ConfigurationError
    """
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is not None and value < bound:
            raise ConfigurationError(f"{subject}: '{name}' is {value}; at least {bound} is needed")
    for name, bound in (most or {}).items():
        value = getattr(settings, name)
        if value is not None and value > bound:
            raise ConfigurationError(f"{subject}: '{name}' is {value}; at most {bound} is possible")
    for name, bound in (above or {}).items():
        value = getattr(settings, name)
        if value is not None and not value > bound:
            wanted = "a positive number" if bound == 0 else f"more than {bound}"
            raise ConfigurationError(f"{subject}: '{name}' is {value}; give {wanted}")


def check_kind(subject: str, name: str, value: Any, kind: type) -> None:
    """Refuse a value that is not of a kind.

    Raises
    ------
    ConfigurationError
    """
    if not _is_of(value, kind):
        raise ConfigurationError(f"{subject}: '{name}' is {value!r}; give {_words(kind)}")


def check_number(subject: str, name: str, value: Any, least: int) -> int:
    """A whole number that is at least so large.

    Raises
    ------
    ConfigurationError
    """
    return check_whole(f"{subject}: '{name}'", value, least)


def check_weights(subject: str, name: str, weights: Mapping[str, Any] | None) -> None:
    """Refuse weights by feature name that are no numbers.

    Raises
    ------
    ConfigurationError
    """
    for feature, weight in (weights or {}).items():
        check_kind(f"{subject}, '{name}'", feature, weight, float)


def check_seed(subject: str, value: Any) -> int:
    """A seed that every generator of random numbers takes.

    Raises
    ------
    ConfigurationError
    """
    return check_whole(f"{subject}: 'seed'", value, 0, _MOST_SEED)


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind; whole numbers are numbers, truth values are none."""
    if get_origin(kind) is Literal:
        return True  # named values are looked up where they are used
    kind = get_origin(kind) or kind
    if kind is int:
        return is_whole(value)
    if kind is float:
        return is_finite(value)
    if kind is Sequence:
        return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
    if isinstance(value, str) and kind is not str:
        return False  # a text is a sequence, too
    return isinstance(value, kind)


def _words(kind: Any) -> str:
    """A kind of values in words."""
    kind = get_origin(kind) or kind
    return _WORDS.get(kind, "names with numbers" if issubclass(kind, Mapping) else "a list")
