"""Cooldown: after a change of size, each direction waits for its own window."""

from __future__ import annotations

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.scaling import NO_CHANGE_MS, cooldown_left
from orchestrator.types import ScalingDirection

__all__ = ["CooldownManager"]


class CooldownManager:
    """Keeps a size from swinging up and down.

    Both windows count from the last change, whichever way it went. The way up is usually the
    shorter one: a shortage hurts at once, idle nodes only cost.

    Parameters
    ----------
    up_window_s, down_window_s : float
        Seconds after a change before the next one up, or down; at least 0.

    Raises
    ------
    ConfigurationError
        If a window is negative.
    """

    def __init__(self, up_window_s: float = 0.0, down_window_s: float = 600.0) -> None:
        for name, value in (("up_window_s", up_window_s), ("down_window_s", down_window_s)):
            if not value >= 0.0:
                raise ConfigurationError(f"CooldownManager: '{name}' is {value}; at least 0")
        self.up_window_ms = round(1000.0 * up_window_s)
        self.down_window_ms = round(1000.0 * down_window_s)
        self._last_change_ms = NO_CHANGE_MS

    @property
    def last_change_ms(self) -> int:
        """When the size was last changed, ms; ``NO_CHANGE_MS`` if it never was."""
        return self._last_change_ms

    def window_ms(self, direction: ScalingDirection) -> int:
        """How long a direction waits after a change, ms; 0 for ``NONE``."""
        windows = {
            ScalingDirection.UP: self.up_window_ms,
            ScalingDirection.DOWN: self.down_window_ms,
            ScalingDirection.NONE: 0,
        }
        return windows[direction]

    def remaining_ms(self, direction: ScalingDirection, now_ms: int) -> int:
        """Time until a change in this direction is allowed, ms; 0 if it is allowed now."""
        return int(cooldown_left(now_ms, self._last_change_ms, self.window_ms(direction)))

    def allows(self, direction: ScalingDirection, now_ms: int) -> bool:
        """Whether a change in this direction is allowed now."""
        return self.remaining_ms(direction, now_ms) == 0

    def record(self, now_ms: int) -> None:
        """Note that the size is changed now."""
        self._last_change_ms = max(self._last_change_ms, now_ms)
