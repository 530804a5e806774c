"""Kernels that only kernels call get no machine code of their own.

numba turns every function's module, which contains all that the function calls, into machine code
at once, although what is called from Python contains it all again. For inner kernels, most of all
functions here, that was a third of all compilation. Their libraries stay what others link with.

This reaches into numba's code generation; :func:`installed` says whether it is as expected. Where
it is not, inner kernels are compiled as numba does it, which only takes longer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from numba.core import codegen
from numba.core.registry import cpu_target

__all__ = ["compiling", "installed"]


_EXPECTED = ("_finalize_final_module", "_finalize_dynamic_globals", "_get_module_for_linking")


class _State(threading.local):
    inner = False


_state = _State()


_waiting: dict[str, Any] = {}  # environments of functions that are in no machine code yet


@contextmanager
def compiling(inner: bool) -> Iterator[None]:
    """Say whether what is compiled meanwhile is called by kernels only."""
    before, _state.inner = _state.inner, inner
    try:
        yield
    finally:
        _state.inner = before


class _Library(codegen.JITCodeLibrary):
    """Code of one function, or of an inner one: for linking only."""

    def __init__(self, owner: Any, name: str) -> None:
        super().__init__(owner, name)
        self._inner = _state.inner

    def _finalize_final_module(self) -> None:
        if self._inner:
            self._finalize_dynamic_globals()
            self._finalized = True
            return
        super()._finalize_final_module()
        for name in [name for name in _waiting if _set_environment(self._codegen, name)]:
            del _waiting[name]

    def get_pointer_to_function(self, name: str) -> int:
        """Address of a function's machine code, 0 if it has none."""
        if not self._inner:
            return int(super().get_pointer_to_function(name))
        self._ensure_finalized()
        return 0

    def serialize_using_object_code(self) -> tuple[str, str, Any]:
        """What the cache keeps."""
        if not self._inner:
            kept: tuple[str, str, Any] = super().serialize_using_object_code()
            return kept
        return self.name, "inner", self._get_module_for_linking().as_bitcode()

    @classmethod
    def _unserialize(cls, owner: Any, kept: tuple[str, str, Any]) -> Any:
        name, kind, data = kept
        with compiling(kind == "inner"):
            if kind != "inner":
                return super()._unserialize(owner, kept)
            self = owner.create_library(name)
            self._final_module = self._shared_module = llvm.parse_bitcode(data)
            self._finalized = True
            return self


class _Codegen(codegen.JITCPUCodegen):
    _library_class = _Library

    def set_env(self, env_name: str, env: Any) -> None:
        """Set a function's environment, or do so as soon as its machine code is there."""
        _waiting[env_name] = env
        if _set_environment(self, env_name):
            del _waiting[env_name]


def _set_environment(owner: Any, name: str) -> bool:
    if owner._engine.get_global_value_address(name) == 0:
        return False
    codegen.JITCPUCodegen.set_env(owner, name, _waiting[name])
    return True


def _install() -> bool:
    owner = cpu_target.target_context.codegen()
    if type(owner) is not codegen.JITCPUCodegen:
        return False
    if owner._library_class is not codegen.JITCodeLibrary:
        return False
    if not all(hasattr(codegen.JITCodeLibrary, name) for name in _EXPECTED):
        return False
    owner.__class__ = _Codegen
    return True


installed = _install()
"""Whether inner kernels are compiled for linking only."""
