"""Compilation settings, in one place: optimisation level, cache, and a word while compiling."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import inspect
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import event, types
from numba.core.caching import Cache
from numba.core.registry import CPUDispatcher
from numba.extending import intrinsic

from orchestrator.kernels.lang import linking

__all__ = ["deep_entry", "entry", "kernel", "on_row", "part", "small_kernel", "sources_digest"]


_F = TypeVar("_F", bound=Callable[..., Any])


_config: Any = numba.config


_ROOT = next(folder for folder in Path(__file__).parents if folder.name == "kernels")

# At level 3 the compiler spends four times as long on these branchy functions, and the result is
# no faster (measured on rule replays: 27 s against 114 s). NUMBA_OPT still overrides it.
if "NUMBA_OPT" not in os.environ:
    _config.OPT = type(_config.OPT)(2)


def sources_digest(folder: Path = _ROOT) -> str:
    """Hash of all sources in a folder, and of where in it they are.

    numba renews a cached function when its own file changes, but not when a function that it calls
    does. Hence one cache folder for each state of the sources.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _cache_folder() -> Path:
    """A writable folder for compiled kernels: beside the sources, else the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")))
    places = (_ROOT / "__pycache__", home / "quartermaster")
    for place in places:
        folder = place / f"compiled-{sources_digest()}"
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


# Kernels allocate nothing, and whoever calls them holds their arrays: counting references, dozens
# of atomic additions for every call that passes on all buffers, took most of a step.
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}


# What is called from Python needs wrappers that take objects apart. They cost a seventh of all
# compilation, so that only such kernels have them.
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


_PATIENCE_S = 180.0  # with whoever compiles the same; the longest kernels take half a minute
_LOOK_S = 0.02


@functools.cache
def _locks() -> int:
    """The file whose bytes stand for what is being compiled."""
    folder = Path(_config.CACHE_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / "being-compiled", os.O_RDWR | os.O_CREAT, 0o666)


def _byte_of(function: Callable[..., Any], signature: Any) -> int:
    """The byte of that file that stands for a function and the types of its arguments."""
    text = f"{function.__module__}.{function.__qualname__} {signature}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")


@contextmanager
def _alone(dispatcher: CPUDispatcher, signature: Any) -> Iterator[None]:
    """Let no other process compile the same meanwhile: who comes second finds it in the cache.

    A process that compiles a kernel waits for whoever compiles one that it calls. Whoever finds in
    the cache what it wants waits for nobody: a process may be stopped while it holds a lock, for as
    long as it pleases somebody. Where the system has no such locks, both compile.
    """
    place = _byte_of(dispatcher.py_func, signature)
    held = _lock(place, lambda: _is_cached(dispatcher, signature))
    try:
        yield
    finally:
        if held:
            fcntl.lockf(_locks(), fcntl.LOCK_UN, 1, place)


def _is_cached(dispatcher: Any, signature: Any) -> bool:
    cache: Any = dispatcher._cache
    if not isinstance(cache, Cache):
        return False
    key = cache._index_key(signature, dispatcher.targetctx.codegen())
    return bool(key in cache._cache_file._load_index())


def _lock(place: int, needless: Callable[[], bool]) -> bool:
    """Lock a byte; whether that was done, in time and before it had become needless."""
    until = time.monotonic() + _PATIENCE_S
    while not needless():
        try:
            fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):  # somebody else has it
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_S)
        except OSError:
            return False
        else:
            return True
    return False


class _EntryDispatcher(CPUDispatcher):
    """A kernel that Python calls, perhaps besides other kernels."""

    role = linking.Role.ENTRY

    def compile(self, signature: Any) -> Any:
        """Compile it, or load it from the cache."""
        with linking.compiling(self.role), _alone(self, signature):
            return super().compile(signature)


class _DeepEntryDispatcher(_EntryDispatcher):
    """The same, optimised twice."""

    role = linking.Role.DEEP_ENTRY


class _InnerDispatcher(CPUDispatcher):
    """A kernel without wrappers: called from Python, it would run nowhere."""

    def compile(self, signature: Any) -> Any:
        """Compile it, or load it from the cache, for kernels to link with."""
        with linking.compiling(linking.Role.INNER), _alone(self, signature):
            return super().compile(signature)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse."""
        raise TypeError(
            f"{self.py_func.__qualname__} is called by kernels only; make it an @entry, or take "
            "on_row of it, to call it from Python"
        )


def _compile(function: _F, dispatcher: type[CPUDispatcher], **more: Any) -> _F:
    compiled = numba.njit(**_OPTIONS, **more)(function)
    compiled.__class__ = dispatcher
    return cast(_F, compiled)


def kernel(function: _F) -> _F:
    """Compile in nopython mode and cache the machine code on disk; for kernels to call."""
    return _compile(function, _InnerDispatcher, **_INNER)


def small_kernel(function: _F) -> _F:
    """Like :func:`kernel`, always inlined: for functions of a few instructions."""
    return _compile(function, _InnerDispatcher, **_INNER, forceinline=True)


def entry(function: _F) -> _F:
    """Like :func:`kernel`, for Python to call, and for kernels."""
    return _compile(function, _EntryDispatcher)


def deep_entry(function: _F) -> _F:
    """Like :func:`entry`, optimised twice: where many levels of large kernels cost speed else.

    It takes twice as long to compile. See docs/decisions/0047.
    """
    return _compile(function, _DeepEntryDispatcher)


def part(function: _F) -> _F:
    """A part of one large kernel: its source is copied into the caller before it is compiled.

    For what is called from one or two places only. A kernel's module contains all that it calls and
    is optimised as a whole, so that each level of such functions would cost seconds.
    """
    options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
    options["inline"] = "always"
    return cast(_F, numba.njit(**options)(function))


@intrinsic
def _plain(typing_context: Any, value: Any) -> Any:
    """An integer, or a member of an enumeration of them, as int64; anything else as it is."""
    number = isinstance(value, (types.Integer, types.IntEnumMember)) and value != types.uint64
    kind = types.int64 if number else value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[0], signature.args[0], kind)

    return kind(value), generate


@functools.cache
def on_row(function: Callable[..., Any]) -> Any:
    """Make a kernel of a row, ``(row, ...)``, one that Python calls: ``(rows, e, ...)``.

    Indexing a structured array in Python makes a copy-like object of another type on every call;
    here ``rows[e]`` is taken inside the compiled code instead. A kernel whose second argument is
    called ``e`` is told which row it is. Integers of all kinds are taken, and given, as int64.

    The function is written out, for numba keeps closures in its cache for one process only. In the
    cache it goes under its own name by the file and line of the kernel.
    """
    python = cast(Any, function).py_func
    names = list(inspect.signature(python).parameters)[1:]
    passed = "".join(f", _plain({name})" for name in names)
    taken = "".join(f", {name}" for name in names if name != "e")
    name = f"{python.__name__}_on_row"
    source = f"def {name}(rows, e{taken}):\n    return _plain(_kernel(rows[e]{passed}))\n"
    code = python.__code__
    scope = {"__name__": python.__module__, "_kernel": function, "_plain": _plain}
    exec(compile("\n" * (code.co_firstlineno - 1) + source, code.co_filename, "exec"), scope)
    made = cast(Any, scope[name])
    made.__doc__ = python.__doc__
    return entry(made)
