"""The GPUs of a node, as NVML tells of them, where it is there.

``nvidia-ml-py`` is imported here and nowhere else, and only where it is installed. A node without
it, or without a driver, has the GPUs that are declared for it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from types import ModuleType
from typing import Any

import msgspec

__all__ = ["Gpu", "GpuReader"]


_MIB = 2**20
_RESTRICTED = "CUDA_VISIBLE_DEVICES"


_log = logging.getLogger(__name__)


class Gpu(msgspec.Struct, frozen=True):
    """One GPU: which one it is, and how it is used (percent of the last moments, MiB)."""

    index: int
    name: str
    uuid: str
    memory_mb: int
    used_mb: int = 0
    use_percent: int = 0


class GpuReader:
    """Reads what NVML says.

    Parameters
    ----------
    nvml : module or None, optional
        It, or what stands for it; None: ``pynvml`` if it can be imported.
    """

    def __init__(self, nvml: ModuleType | None = None) -> None:
        self._nvml: Any = nvml
        if nvml is None:
            with contextlib.suppress(ImportError):
                self._nvml = importlib.import_module("pynvml")
        if self._nvml is not None:
            try:
                self._nvml.nvmlInit()
            except Exception as error:  # no driver, or no permission: its class is NVML's own
                _log.info("NVML is there, and tells nothing: %s", error)
                self._nvml = None

    @property
    def available(self) -> bool:
        """Whether there is anybody to ask."""
        return self._nvml is not None

    def read(self) -> tuple[Gpu, ...] | None:
        """All GPUs that this process may use, in their order; None: nobody can say."""
        if self._nvml is None:
            return None
        found = []
        for index in self._indices():
            try:
                found.append(self._read(index))
            except Exception as error:  # one that has fallen off the bus hides no other
                _log.warning("GPU %d cannot be read: %s", index, error)
        return tuple(found)

    @property
    def linked(self) -> bool:
        """Whether GPUs are connected by NVLink."""
        for index in self._indices() if self._nvml is not None else ():
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            with contextlib.suppress(Exception):  # a GPU that has no such links says so by an error
                for link in range(self._nvml.NVML_NVLINK_MAX_LINKS):
                    if self._nvml.nvmlDeviceGetNvLinkState(handle, link):
                        return True
        return False

    def close(self) -> None:
        """Let go of the driver."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None

    def _indices(self) -> list[int]:
        """Those that the agent was left, if somebody has restricted it by their numbers."""
        there = list(range(int(self._nvml.nvmlDeviceGetCount())))
        given = os.environ.get(_RESTRICTED)
        if given is None:
            return there
        names = [name.strip() for name in given.split(",")]
        if all(name.isdecimal() for name in names):
            return [int(name) for name in names if int(name) in there]
        return there if given.strip() else []

    def _read(self, index: int) -> Gpu:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        use = 0
        with contextlib.suppress(Exception):  # parts of GPUs (MIG) have no such number
            use = int(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        name, uuid = (
            text.decode() if isinstance(text, bytes) else str(text)
            for text in (
                self._nvml.nvmlDeviceGetName(handle),
                self._nvml.nvmlDeviceGetUUID(handle),
            )
        )
        return Gpu(index, name, uuid, memory.total // _MIB, memory.used // _MIB, use)
