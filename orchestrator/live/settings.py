"""What is set while a cluster runs, and must be the same after a restart: it goes into the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from orchestrator.errors import ValidationError
from orchestrator.messages import Configure, Entry
from orchestrator.ports import Clock

__all__ = ["Settings"]


_log = logging.getLogger(__name__)


class Settings:
    """Keeps settings in a log.

    Setting something is not a coroutine, writing to the log is one: what is set is written with
    the next command or event, or as soon as the event loop gets to it.

    Parameters
    ----------
    clock : Clock
        Time.
    entries : iterable of Entry
        What the log holds.
    propose : coroutine function
        Logs a command.
    """

    def __init__(
        self,
        clock: Clock,
        entries: Iterable[Entry],
        propose: Callable[[Configure], Awaitable[object]],
    ) -> None:
        self._clock = clock
        self._propose = propose
        self._waiting: dict[str, object] = {}
        self._known: dict[str, object] = {}
        for entry in entries:
            self.read(entry)

    def read(self, entry: Entry) -> None:
        """An entry of the log was applied."""
        body = entry.body
        if isinstance(body, Configure) and body.subject not in self._waiting:
            self._known[body.subject] = body.value

    def image(self) -> object:
        """What is set."""
        return {name: self._known[name] for name in self._known if name not in self._waiting}

    def load(self, image: dict[str, object]) -> None:
        """Have set what was set then."""
        self._known = dict(image)

    def get(self, subject: str) -> object:
        """What one subject is set to; None: nothing, or it is no longer."""
        return self._known.get(subject)

    def of(self, kind: str) -> list[object]:
        """Values of the subjects ``kind`` and ``kind:...`` that are set, in the order of names."""
        return [
            value
            for subject, value in sorted(self._known.items(), key=lambda item: item[0])
            if subject.split(":", 1)[0] == kind and value is not None
        ]

    def note(self, subject: str, value: object) -> None:
        """Something was set; None: it is no longer. Nothing happens if it was so before."""
        if self._known.get(subject) == value:
            return
        self._known[subject] = value
        self._waiting[subject] = value
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # no loop yet: it is written with the first command
        self._clock.call_at(self._clock.now_ms(), self._flush_soon)

    async def flush(self) -> None:
        """Write what waits.

        Raises
        ------
        Exception
            What the log raises; what could not be written waits for the next time.
        """
        while self._waiting:
            subject = next(iter(self._waiting))
            value = self._waiting.pop(subject)
            try:
                await self._propose(Configure(subject, value))
            except ValidationError as error:
                # It never will be: commands that have nothing to do with it must not wait for it.
                _log.error("'%s' holds until a restart: it cannot be logged (%s)", subject, error)
            except BaseException:
                self._waiting.setdefault(subject, value)
                raise

    async def _flush_soon(self) -> None:
        try:
            await self.flush()
        except Exception:
            _log.exception("settings could not be logged; the next command tries again")
