"""Kernels that only kernels call are optimised by themselves, and get no machine code of their own.

numba optimises every function's module with all that the function calls, and turns it into machine
code, although what is called from Python contains it all again. For inner kernels, most of all
functions here, that was half of all compilation. Here an inner kernel is optimised beside the small
functions that it calls and no others, and its library is what others link with; all of it is
optimised together where Python calls it, and only there.

This reaches into numba's code generation; :func:`installed` says whether it is as expected. Where
it is not, inner kernels are compiled as numba does it, which only takes longer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import cached_property
from itertools import chain, islice
from typing import Any

import llvmlite.binding as llvm
from numba.core import codegen
from numba.core.registry import cpu_target

__all__ = ["Role", "compiling", "installed"]


_EXPECTED = (
    "_finalize_final_module",
    "_finalize_dynamic_globals",
    "_get_module_for_linking",
    "_optimize_final_module",
    "_raise_if_finalized",
    "_linking_libraries",
    "_final_module",
    "_shared_module",
    "_reload_init",
)


_SMALL = 60  # instructions: what the compiler would mostly copy into its callers


class Role(Enum):
    """Who calls what is compiled, and how thoroughly it is optimised."""

    INNER = 0
    """Kernels only."""
    ENTRY = 1
    """Python."""
    DEEP_ENTRY = 2
    """Python; what is inlined is optimised a second time with its new callers."""


class _State(threading.local):
    role = Role.ENTRY


_state = _State()


_waiting: dict[str, Any] = {}  # environments of functions that are in no machine code yet


@contextmanager
def compiling(role: Role) -> Iterator[None]:
    """Say what is compiled meanwhile."""
    before, _state.role = _state.role, role
    try:
        yield
    finally:
        _state.role = before


class _Library(codegen.JITCodeLibrary):
    """Code of one function, or of an inner one: for linking only.

    An inner one is kept twice: by itself, where larger functions that it calls are but declared,
    and with all of them.
    """

    def __init__(self, owner: Any, name: str) -> None:
        super().__init__(owner, name)
        self._role = _state.role
        self._inner = self._role is Role.INNER
        self._itself: Any = None

    @property
    def _alone(self) -> Any:
        return self._get_module_for_linking() if self._itself is None else self._itself

    @cached_property
    def _is_small(self) -> bool:
        functions = self._alone.functions
        parts = (block.instructions for function in functions for block in function.blocks)
        return sum(1 for _ in islice(chain.from_iterable(parts), _SMALL + 1)) <= _SMALL

    def finalize(self) -> None:
        """Optimise it with what it calls; an inner one with what is small of that."""
        if not self._inner:
            super().finalize()
            return
        self._raise_if_finalized()
        called = dict.fromkeys(self._linking_libraries)
        for library in called:
            self._reload_init.update(library._reload_init)
            if library._is_small:
                self._final_module.link_in(library._alone, preserve=True)
        self._optimize_final_module()
        self._itself = _many_times(self._final_module)
        self._final_module = self._itself.clone()
        for library in called:
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._final_module.verify()
        self._shared_module = self._final_module
        self._finalize_final_module()

    def _optimize_final_module(self) -> None:
        super()._optimize_final_module()
        if self._role is Role.DEEP_ENTRY:
            super()._optimize_final_module()

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
        modules = self._itself, self._get_module_for_linking()
        return self.name, "inner", tuple(module.as_bitcode() for module in modules)

    @classmethod
    def _unserialize(cls, owner: Any, kept: tuple[str, str, Any]) -> Any:
        name, kind, data = kept
        with compiling(Role.INNER if kind == "inner" else Role.ENTRY):
            if kind != "inner":
                return super()._unserialize(owner, kept)
            self = owner.create_library(name)
            self._itself, whole = (llvm.parse_bitcode(module) for module in data)
            self._final_module = self._shared_module = whole
            self._finalized = True
            return self


def _many_times(module: Any) -> Any:
    """A module, its functions such that others that are linked with it may have them too."""
    for function in module.functions:
        if not function.is_declaration and function.linkage == llvm.Linkage.external:
            function.linkage = "linkonce_odr"
    return module


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
    probe = owner.create_library("expected")
    if not all(hasattr(probe, name) for name in _EXPECTED):
        return False
    owner.__class__ = _Codegen
    return True


installed = _install()
"""Whether inner kernels are compiled for linking only."""
