"""Compilation settings, in one place: optimisation level, cache, and a word while compiling."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import event
from numba.core.registry import CPUDispatcher

from orchestrator.kernels import linking

__all__ = ["kernel", "part", "small_kernel"]

_F = TypeVar("_F", bound=Callable[..., Any])
_config: Any = numba.config
_PACKAGE = "orchestrator.kernels."

# At level 3 the compiler spends four times as long on these branchy functions, and the result is
# no faster (measured on rule replays: 27 s against 114 s). NUMBA_OPT still overrides it.
if "NUMBA_OPT" not in os.environ:
    _config.OPT = type(_config.OPT)(2)


def _sources_digest() -> str:
    """Hash of all kernel sources.

    numba renews a cached function when its own file changes, but not when a function that it calls
    does. Hence one cache folder for each state of the sources.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _cache_folder() -> Path:
    """A writable folder for compiled kernels: beside the sources, else the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")))
    places = (Path(__file__).parent / "__pycache__", home / "quartermaster")
    for place in places:
        folder = place / f"compiled-{_sources_digest()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="quartermaster-"))


class _Announcer(event.Listener):
    """Says once, on standard error, that kernels are being compiled."""

    def on_start(self, event: Any) -> None:
        """A function is about to be compiled."""
        numba.core.event.unregister("numba:compile", self)
        sys.stderr.write(
            "quartermaster: compiling kernels for this machine (once, about a minute) ...\n"
        )
        sys.stderr.flush()

    def on_end(self, event: Any) -> None:
        """A function has been compiled."""


if "NUMBA_CACHE_DIR" not in os.environ:
    _folder = _cache_folder()
    _config.CACHE_DIR = str(_folder)
    if not any(_folder.rglob("*.nbi")):
        event.register("numba:compile", _Announcer())


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    """How a function is compiled.

    What is called from Python needs wrappers that take objects apart, which cost a seventh of all
    compilation. Kernels of this package that are, and only those, have annotations; functions of
    other packages, the tests' for example, always get wrappers.
    """
    options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
    if function.__module__.startswith(_PACKAGE):
        # Kernels allocate nothing, and whoever calls them holds their arrays: counting references,
        # dozens of atomic additions for every call that passes on all buffers, took most of a step.
        options["_nrt"] = False
        if not function.__annotations__:
            options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return options


class _EntryDispatcher(CPUDispatcher):
    """A kernel that Python calls, perhaps besides other kernels."""

    def compile(self, signature: Any) -> Any:
        """Compile it, or load it from the cache."""
        with linking.compiling(inner=False):
            return super().compile(signature)


class _InnerDispatcher(CPUDispatcher):
    """A kernel without wrappers: called from Python, it would run nowhere."""

    def compile(self, signature: Any) -> Any:
        """Compile it, or load it from the cache, for kernels to link with."""
        with linking.compiling(inner=True):
            return super().compile(signature)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse."""
        raise TypeError(
            f"{self.py_func.__qualname__} is called by kernels only; annotate it, or wrap it in a "
            "kernel of your own, to call it from Python"
        )


def _compile(function: _F, **more: Any) -> _F:
    options = _options(function)
    dispatcher = numba.njit(**options, **more)(function)
    inner = options.get("no_cpython_wrapper", False)
    dispatcher.__class__ = _InnerDispatcher if inner else _EntryDispatcher
    return cast(_F, dispatcher)


def kernel(function: _F) -> _F:
    """Compile in nopython mode and cache the machine code on disk."""
    return _compile(function)


def small_kernel(function: _F) -> _F:
    """Like :func:`kernel`, always inlined: for functions of a few instructions."""
    return _compile(function, forceinline=True)


def part(function: _F) -> _F:
    """A part of one large kernel: its source is copied into the caller before it is compiled.

    For what is called from one or two places only. A kernel's module contains all that it calls and
    is optimised as a whole, so that each level of such functions would cost seconds.
    """
    options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
    options["inline"] = "always"
    return cast(_F, numba.njit(**options)(function))
