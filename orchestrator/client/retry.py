"""How often a request is tried: until patience has gone, with full jitter between the tries."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass

from orchestrator.client.problems import ServerUnreachableError
from orchestrator.errors import ConfigurationError, QuartermasterError

__all__ = ["Attempts", "Failure", "Retry"]


@dataclass(frozen=True)
class Retry:
    """For how long, and how often.

    Parameters
    ----------
    patience_s : float
        From the first failure on, how long a request goes on being tried, seconds; 0: not at all.
        A server that is started again answers within a few seconds.
    begin_s : float, optional
        The same where no connection was ever made: the server may not be there at all; never more
        than ``patience_s``.
    first_s, most_s : float
        Pauses are drawn evenly between 0 and a bound that doubles from ``first_s`` to ``most_s``
        (full jitter; Brooker, AWS Architecture Blog, 2015).

    Raises
    ------
    ConfigurationError
        If one of them makes no sense.
    """

    patience_s: float = 30.0
    begin_s: float = 30.0
    first_s: float = 0.05
    most_s: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what nobody can wait."""
        for name in ("patience_s", "begin_s", "first_s", "most_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"Retry: {name} is {value}; give 0 or more seconds")


@dataclass(frozen=True)
class Failure:
    """What became of a try.

    Parameters
    ----------
    problem : str
        What happened on the way, in words; where the server has answered, ``""``.
    sent : bool
        Whether the server may have acted on it.
    answer : QuartermasterError or None, optional
        What the server has answered.
    after_s : float or None, optional
        When it wants to be asked again; None: it does not.
    """

    problem: str
    sent: bool
    answer: QuartermasterError | None = None
    after_s: float | None = None


class Attempts:
    """The tries of one request.

    Parameters
    ----------
    retry : Retry
        For how long.
    url : str
        Whom it asks: for the error.
    repeatable : bool
        Whether doing it twice does no harm.
    reached : bool
        Whether the server has answered before.
    """

    def __init__(self, retry: Retry, url: str, *, repeatable: bool, reached: bool) -> None:
        self._retry, self._url, self._repeatable = retry, url, repeatable
        self._reached = reached
        self._bound_s = retry.first_s
        self._until_s: float | None = None

    def succeeded(self) -> None:
        """The server answers: patience begins anew."""
        self._bound_s, self._until_s = self._retry.first_s, None
        self._reached = True

    def handed(self) -> None:
        """The caller has a part of the answer: from its beginning it would be told twice."""
        self._repeatable = False

    def pause_s(self, failure: Failure) -> float:
        """How long to wait before the next try, seconds.

        Raises
        ------
        QuartermasterError
            The server's own answer, or that it cannot be reached: there is no next try.
        """
        now_s = time.monotonic()
        if self._until_s is None:
            retry, there = self._retry, self._reached or failure.sent
            self._until_s = now_s + (
                retry.patience_s if there else min(retry.begin_s, retry.patience_s)
            )
        left_s = self._until_s - now_s
        # A server that asks for patience has not acted; a line that broke may have carried it all.
        if failure.answer is not None:
            again = failure.after_s is not None and failure.after_s <= left_s
        else:
            again = self._repeatable or not failure.sent
        if not again or left_s <= 0:
            raise failure.answer or ServerUnreachableError(self._url, failure.problem)
        pause_s = random.uniform(0, self._bound_s) + (failure.after_s or 0.0)
        self._bound_s = min(2 * self._bound_s, self._retry.most_s)
        return min(pause_s, left_s)
