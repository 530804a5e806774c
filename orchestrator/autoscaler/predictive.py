"""Predictive scaling: order today what will be needed when it arrives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.autoscaler.forecasting import Forecaster, Structure
from orchestrator.autoscaler.horizontal import HorizontalScaler, ScalingPlan
from orchestrator.autoscaler.rolling import RollingSettings, calibrate, carry_forward, choose
from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.types import ScalingDecision

__all__ = ["Forecast", "PredictiveScaler"]


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

    def decide(self, now_ms: int, size: int) -> ScalingDecision:
        """What the size should be now, for the demand of now and of the provisioning delay.

        Parameters
        ----------
        now_ms : int
        size : int
            Nodes or replicas that are here or on their way.

        Returns
        -------
        ScalingDecision
        """
        ahead = self.forecast()
        target = self.horizontal.plan.target_utilisation
        return self.horizontal.decide(
            now_ms, size, self._values[-1], predicted=ahead.upper * target
        )
