from __future__ import annotations

import ctypes
import sys

from agents.ppo.memory import keep_freed_memory


def test_the_c_library_takes_the_settings_or_is_left_alone() -> None:
    glibc = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")
    assert keep_freed_memory() is glibc
