"""How many nodes or replicas: reactive, predictive and vertical scaling, and cooldown."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.autoscaler.forecast import (
    Forecaster,
    RollingSettings,
    Structure,
    calibrate,
    carry_forward,
    choose,
)
from orchestrator.engine.records import sizing_record
from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.kernels.decide.scale import cooldown_left, scale_one
from orchestrator.kernels.state.codes import NO_CHANGE_MS
from orchestrator.messages import Sizing
from orchestrator.types import ScalingDecision, ScalingDirection

__all__ = [
    "CooldownManager",
    "Forecast",
    "HorizontalScaler",
    "PredictiveScaler",
    "ResourceBounds",
    "ResourceRequest",
    "ScalingPlan",
    "Supply",
    "VerticalScaler",
]


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

    def take_back(self, last_change_ms: int) -> None:
        """A change that was recorded was not made: the last one was that of before."""
        self._last_change_ms = last_change_ms


@dataclass(frozen=True)
class ScalingPlan:
    """How a fleet or a service is scaled.

    Parameters
    ----------
    unit_capacity : float
        Demand that one node or replica serves at full use, in the unit of the demand: GPUs of a
        node for a cluster, requests per second of a replica for a service.
    target_utilisation : float
        Use of a unit to aim for, in (0, 1].
    min_size, max_size : int
        Bounds of the size.
    tolerance : float
        A size whose relative distance from the desired one is at most this is left alone while
        it serves the demand. 0.1 is the default of Kubernetes' HorizontalPodAutoscaler.
    step_up, step_down : int
        Most units added or removed at once; 0: no limit.
    up_window_s, down_window_s : float
        Cooldown of each direction, seconds after the last change.
    hold_s : float
        On the way down, the highest demand of this past counts, seconds (the stabilisation window
        of the HorizontalPodAutoscaler).

    Raises
    ------
    ConfigurationError
        Naming the first bad field.
    """

    unit_capacity: float
    target_utilisation: float = 0.8
    min_size: int = 1
    max_size: int = 1 << 20
    tolerance: float = 0.1
    step_up: int = 0
    step_down: int = 0
    up_window_s: float = 0.0
    down_window_s: float = 600.0
    hold_s: float = 0.0

    def __post_init__(self) -> None:
        """Check every field."""
        checks = {
            "unit_capacity": (self.unit_capacity > 0.0, "greater than 0"),
            "target_utilisation": (0.0 < self.target_utilisation <= 1.0, "in (0, 1]"),
            "min_size": (self.min_size >= 0, "at least 0"),
            "max_size": (self.max_size >= max(self.min_size, 1), "at least min_size and 1"),
            "tolerance": (0.0 <= self.tolerance < 1.0, "in [0, 1)"),
            "step_up": (self.step_up >= 0, "at least 0"),
            "step_down": (self.step_down >= 0, "at least 0"),
            "up_window_s": (self.up_window_s >= 0.0, "at least 0"),
            "down_window_s": (self.down_window_s >= 0.0, "at least 0"),
            "hold_s": (self.hold_s >= 0.0, "at least 0"),
        }
        for name, (ok, rule) in checks.items():
            value = getattr(self, name)
            if not ok or not math.isfinite(value):
                raise ConfigurationError(f"ScalingPlan: '{name}' is {value}; it must be {rule}")

    def sizing(self, units: float = 1.0) -> Sizing:
        """The plan as logs have it, demand counted in parts of its unit: so many are one."""
        return Sizing(
            unit_capacity=units * self.unit_capacity,
            target=self.target_utilisation,
            tolerance=self.tolerance,
            min_size=self.min_size,
            max_size=self.max_size,
            step_up=self.step_up,
            step_down=self.step_down,
            up_window_ms=round(1000.0 * self.up_window_s),
            down_window_ms=round(1000.0 * self.down_window_s),
        )

    def to_record(self) -> NDArray[np.void]:
        """The plan as the kernels take it, SCALING_DTYPE [1]."""
        return sizing_record(self.sizing())


@dataclass(frozen=True)
class Supply:
    """What units serve that are not all alike.

    Parameters
    ----------
    size : int
        Units that are here or on their way, and those besides without which what waits does not
        fit, however much the others could serve in sum.
    capacity : float
        What so many serve, in the unit of the demand.
    """

    size: int
    capacity: float


class HorizontalScaler:
    """Adds and removes nodes (or replicas) so that demand uses them as planned.

    Parameters
    ----------
    plan : ScalingPlan
        Target, bounds, steps and windows.
    """

    def __init__(self, plan: ScalingPlan) -> None:
        self.plan = plan
        self.cooldown = CooldownManager(plan.up_window_s, plan.down_window_s)
        self._record = plan.to_record()
        self._recent: deque[tuple[int, float]] = deque()

    def decide(
        self,
        now_ms: int,
        size: int,
        demand: float,
        *,
        predicted: float | None = None,
        supply: Supply | None = None,
    ) -> ScalingDecision:
        """What the size should be now; a change is noted for the cooldown.

        Parameters
        ----------
        now_ms : int
            The time; it does not go back from call to call.
        size : int
            Nodes or replicas that are here or on their way.
        demand : float
            Demand now, in the unit of ``unit_capacity``; NaN: it is not known, and nothing is
            changed on its account.
        predicted : float or None, optional
            Demand to prepare for, where it is above the present one.
        supply : Supply or None, optional
            Where units are not all alike, or placing has shown how many it takes; None: each serves
            ``unit_capacity``.

        Returns
        -------
        ScalingDecision
            ``predicted_demand`` is what was planned for; ``cooldown_remaining_s`` is above 0 where
            a change is due and has to wait.

        Raises
        ------
        ValidationError
            If the demand is negative.
        """
        if demand < 0.0:
            raise ValidationError("decide", "demand", f"is {demand}", "give 0 or more, or NaN")
        supply = supply or Supply(size, size * self.plan.unit_capacity)
        known = [value for value in (demand, predicted) if value is not None and value >= 0.0]
        need = max(known, default=math.nan)
        target, left = self._target(now_ms, size, need, supply)
        least = min(supply.size, self.plan.max_size)
        if target < least > size:  # whatever the sums say, placing has shown that it takes so many
            left = self.cooldown.remaining_ms(ScalingDirection.UP, now_ms)
            most = size + self.plan.step_up if self.plan.step_up > 0 else least
            target = size if left > 0 else min(least, most)
        if target != size:
            self.cooldown.record(now_ms)
        return ScalingDecision(
            direction=_direction(size, target),
            target_nodes=target,
            reason=self._explain(size, target, demand, need, left, supply),
            predicted_demand=need,
            cooldown_remaining_s=left / 1000.0,
        )

    def _target(self, now_ms: int, size: int, need: float, supply: Supply) -> tuple[int, int]:
        """The size by the sum of what is needed, and the cooldown that a change waits for, ms."""
        if math.isnan(need):
            return size, 0
        plan = self.plan
        # The rule knows units of one capacity: what others serve beyond it, or less, is taken off.
        spare = (supply.capacity - supply.size * plan.unit_capacity) * plan.target_utilisation
        need, held = need - spare, self._highest_of_late(now_ms, need) - spare
        last = self.cooldown.last_change_ms
        target, left = scale_one(self._record, 0, size, need, now_ms, last)
        if target <= size and left == 0:
            lower, left = scale_one(self._record, 0, size, held, now_ms, last)
            target = min(lower, size) if target < size else target
        return target, left

    def _highest_of_late(self, now_ms: int, need: float) -> float:
        """The highest need of the last ``hold_s``; entries that can never be it are dropped."""
        while self._recent and self._recent[-1][1] <= need:
            self._recent.pop()
        self._recent.append((now_ms, need))
        while self._recent[0][0] < now_ms - 1000.0 * self.plan.hold_s:
            self._recent.popleft()
        return self._recent[0][1]

    def _explain(
        self, size: int, target: int, demand: float, need: float, left: int, supply: Supply
    ) -> str:
        # What is ordered for jobs that fit nowhere is not there yet.
        capacity = supply.capacity - max(supply.size - size, 0) * self.plan.unit_capacity
        what = f"demand {demand:.6g} of {capacity:.6g}"
        if math.isnan(demand):
            what = f"demand unknown, capacity {capacity:.6g}"
        if need > demand:
            what += f", {need:.6g} expected"
        if left > 0:
            return f"{what}; a change is due and waits for the cooldown"
        if target > size and demand > capacity:
            return f"{what}: reactive, demand is above capacity already"
        if target > size and supply.size > size:
            return f"{what}: reactive, what waits fits into {supply.size} nodes and no fewer"
        if target != size:
            return f"{what}; use of {self.plan.target_utilisation:.0%} is the target"
        return f"{what}; no change"


def _direction(size: int, target: int) -> ScalingDirection:
    if target == size:
        return ScalingDirection.NONE
    return ScalingDirection.UP if target > size else ScalingDirection.DOWN


@dataclass(frozen=True)
class Forecast:
    """What is expected within the provisioning delay.

    Parameters
    ----------
    point : float
        Expected demand when an order of now arrives.
    upper : float
        The demand that is not exceeded, with the planned probability, from now until then.
    forecaster : str
        Whose forecast is followed at that horizon.
    calibrated : bool
        Whether enough errors are known for ``upper`` to be a quantile; otherwise it is the point.
    """

    point: float
    upper: float
    forecaster: str
    calibrated: bool


class PredictiveScaler:
    """Scales for the demand at the end of the provisioning delay.

    Each tick's demand is given to :meth:`observe`. Forecasters are fitted in :meth:`refit` only,
    when :meth:`refit_due` says so; :meth:`forecast` and :meth:`decide` evaluate what was fitted,
    so a slow fit can run in a worker thread while decisions go on.

    Forecasts are those of :func:`orchestrator.autoscaler.table.make_table`, computed anew from the
    remembered past: the decision is the same from a table and live.

    Parameters
    ----------
    plan : ScalingPlan
        Its ``target_utilisation`` holds for the demand of now. What is planned for the future has
        its margin in the quantile already.
    forecasters : sequence of Forecaster
        The first one is followed while nothing is known of their errors.
    day : int
        Ticks of a day.
    delay : int
        Provisioning delay, ticks, at least 1.
    level : float
        Probability with which capacity should suffice, in (0, 1).
    settings : RollingSettings, optional
    remember_days : int
        Days of demand kept for fitting.
    """

    def __init__(
        self,
        plan: ScalingPlan,
        forecasters: Sequence[Forecaster],
        *,
        day: int,
        delay: int,
        level: float = 0.95,
        settings: RollingSettings | None = None,
        remember_days: int = 28,
    ) -> None:
        if not forecasters or delay < 1 or day < 1 or remember_days < 1 or not 0.0 < level < 1.0:
            raise ConfigurationError(
                "PredictiveScaler: it takes a forecaster, 'delay', 'day' and 'remember_days' of "
                f"at least 1 and 'level' in (0, 1); got {len(forecasters)}, {delay}, {day}, "
                f"{remember_days} and {level}"
            )
        self.horizontal = HorizontalScaler(plan)
        self.forecasters = tuple(forecasters)
        self.day, self.delay, self.level = day, delay, level
        self.settings = settings or RollingSettings()
        self._most = max(remember_days * day, self.settings.span + 1)
        self._values: list[float] = []
        self._forgotten = 0
        self._fits: list[tuple[int, int, Structure] | None] = [None] * len(self.forecasters)
        self._bases: list[list[np.ndarray]] = [[] for _ in self.forecasters]
        self._known: list[float] = []
        self._known_at = -1

    @property
    def ticks(self) -> int:
        """Ticks observed."""
        return self._forgotten + len(self._values)

    def observe(self, demand: float) -> None:
        """Note the demand of the next tick.

        Raises
        ------
        ValidationError
            If it is negative or not finite: a gap has to be filled by whoever measures.
        """
        if not (np.isfinite(demand) and demand >= 0.0):
            raise ValidationError(
                "demand", "value", f"is {demand} at tick {self.ticks}", "at least 0, and finite"
            )
        self._values.append(float(demand))
        if len(self._values) > 2 * self._most:  # forget in bulk, so that it costs little
            self._forgotten += len(self._values) - self._most
            del self._values[: -self._most]

    def refit_due(self) -> tuple[int, ...]:
        """Forecasters whose structure is missing or has served its time."""
        if not self._values:
            return ()
        now = self.ticks - 1
        return tuple(
            f
            for f, (one, fit) in enumerate(zip(self.forecasters, self._fits, strict=True))
            if fit is None or now - fit[0] >= one.refit_every
        )

    def refit(self) -> None:
        """Fit the forecasters that are due to everything remembered."""
        past = np.array(self._values)
        for f in self.refit_due():
            fitted = self.forecasters[f].fit(past, self.day)
            self._fits[f] = (self.ticks - 1, self._forgotten, fitted)

    def forecast(self) -> Forecast:
        """What is expected within the provisioning delay; once a tick, after :meth:`observe`.

        Raises
        ------
        ValidationError
            If nothing was observed or fitted yet.
        """
        if any(fit is None for fit in self._fits):
            raise ValidationError(
                "PredictiveScaler", "forecasters", "are not fitted", "observe, then call refit"
            )
        self._extend()
        known = np.array(self._known)
        points = np.stack(
            [carry_forward(known, np.stack(bases), self.settings.carry) for bases in self._bases]
        )
        winner = choose(known, points, self.settings.recent)
        followed = np.take_along_axis(points, winner[None].astype(np.intp), axis=0)[0]
        quantiles = calibrate(known, followed, (self.level,), self.settings)[-1, :, 0]
        calibrated = bool(np.isfinite(quantiles).all())
        upper = quantiles if calibrated else followed[-1]
        return Forecast(
            point=float(followed[-1, self.delay]),
            upper=float(upper.max()),
            forecaster=self.forecasters[int(winner[-1, self.delay])].name,
            calibrated=calibrated,
        )

    def _extend(self) -> None:
        """Evaluate the structures at the present tick, once."""
        now = self.ticks - 1
        if self._known and self._known_at == now:
            return
        self._known_at = now
        self._known.append(self._values[-1])
        keep = self.settings.span + 4 * self.delay
        del self._known[:-keep]
        for bases, fit in zip(self._bases, self._fits, strict=True):
            if fit is None:
                raise AssertionError("forecast() checks this")
            _, offset, fitted = fit
            ticks = np.arange(now - offset, now - offset + self.delay + 1)
            bases.append(fitted.at(ticks))
            del bases[:-keep]

    def decide(self, now_ms: int, size: int, supply: Supply | None = None) -> ScalingDecision:
        """What the size should be now, for the demand of now and of the provisioning delay.

        Parameters
        ----------
        now_ms : int
        size : int
            Nodes or replicas that are here or on their way.
        supply : Supply or None, optional
            As of :meth:`HorizontalScaler.decide`.

        Returns
        -------
        ScalingDecision
        """
        ahead = self.forecast()
        target = self.horizontal.plan.target_utilisation
        return self.horizontal.decide(
            now_ms, size, self._values[-1], predicted=ahead.upper * target, supply=supply
        )


@dataclass(frozen=True)
class ResourceBounds:
    """Least and most of one resource, in its own unit."""

    least: float
    most: float

    def __post_init__(self) -> None:
        """Check that they are bounds."""
        if not (0.0 <= self.least <= self.most and math.isfinite(self.most)):
            raise ConfigurationError(
                f"ResourceBounds: {self.least} .. {self.most} is no range; 0 <= least <= most"
            )


@dataclass(frozen=True)
class ResourceRequest:
    """What one worker should ask for, and why."""

    amounts: Mapping[str, float]
    changed: bool
    reason: str


class VerticalScaler:
    """Sets the requests of a worker to a percentile of its recent use, and some margin.

    This is the estimator of Autopilot's simple recommender and of Kubernetes' vertical pod
    autoscaler (Rzadca et al., EuroSys 2020): a high percentile for what can be throttled, close to
    the peak for memory, of which too little kills. A request changes only if it is off by more
    than a tolerance, since changing one means a restart.

    Parameters
    ----------
    bounds : mapping of str to ResourceBounds
        Resources by name, for example ``{"cpu_milli": ..., "memory_mib": ...}``.
    percentiles : mapping of str to float, optional
        Percentile of use to cover, by resource, in (0, 100]; 95 where not given.
    margin : float
        Added on top, as a share.
    tolerance : float
        Relative change below which the request stays.
    samples : int
        Samples remembered.
    least_samples : int
        Samples needed before anything changes.

    Raises
    ------
    ConfigurationError
        Naming what does not make sense.
    """

    def __init__(
        self,
        bounds: Mapping[str, ResourceBounds],
        *,
        percentiles: Mapping[str, float] | None = None,
        margin: float = 0.15,
        tolerance: float = 0.1,
        samples: int = 1024,
        least_samples: int = 16,
    ) -> None:
        if not bounds:
            raise ConfigurationError("VerticalScaler: 'bounds' names no resource")
        self.bounds = dict(bounds)
        self.percentiles = dict.fromkeys(bounds, 95.0) | dict(percentiles or {})
        for name, value in self.percentiles.items():
            if name not in self.bounds or not 0.0 < value <= 100.0:
                raise ConfigurationError(
                    f"VerticalScaler: the percentile of '{name}' is {value}; in (0, 100], of one "
                    f"of {', '.join(self.bounds)}"
                )
        if not margin >= 0.0 or not tolerance >= 0.0:
            raise ConfigurationError("VerticalScaler: 'margin' and 'tolerance' are at least 0")
        if not 1 <= least_samples <= samples:
            raise ConfigurationError("VerticalScaler: 1 <= 'least_samples' <= 'samples'")
        self.margin, self.tolerance, self.least_samples = margin, tolerance, least_samples
        self._used = {name: deque[float](maxlen=samples) for name in bounds}

    def observe(self, usage: Mapping[str, float]) -> None:
        """Note what one worker used of each resource.

        Raises
        ------
        ValidationError
            If a resource is missing, unknown, or its use is negative or not finite.
        """
        if set(usage) != set(self._used):
            raise ValidationError(
                "usage", "resources", f"are {sorted(usage)}", f"give {sorted(self._used)}"
            )
        for name, value in usage.items():
            if not (math.isfinite(value) and value >= 0.0):
                raise ValidationError("usage", name, f"is {value}", "at least 0, and finite")
        for name, value in usage.items():
            self._used[name].append(float(value))

    def recommend(self, current: Mapping[str, float]) -> ResourceRequest:
        """What a worker that now asks for ``current`` should ask for.

        Parameters
        ----------
        current : mapping of str to float
            Requests by resource; of others nothing is said.

        Returns
        -------
        ResourceRequest
            ``amounts`` equal ``current`` where nothing is to change.
        """
        amounts, changes = dict(current), []
        for name, used in self._used.items():
            if name not in current or len(used) < self.least_samples:
                continue
            q = self.percentiles[name]
            bounds = self.bounds[name]
            wanted = (1.0 + self.margin) * float(np.percentile(np.array(used), q))
            wanted = min(max(wanted, bounds.least), bounds.most)
            outside = not bounds.least <= current[name] <= bounds.most
            if outside or abs(wanted - current[name]) > self.tolerance * current[name]:
                amounts[name] = wanted
                changes.append(f"{name} {current[name]:.6g} to {wanted:.6g} (p{q:g} of use)")
        reason = "; ".join(changes) or "use and requests agree"
        return ResourceRequest(amounts, bool(changes), reason)
