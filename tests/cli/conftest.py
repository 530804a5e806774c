from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from agents.cli import main
from tests.client.fake import TOKEN, FakeServer


@dataclass
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer().serving() as server:
        monkeypatch.setenv("QUARTERMASTER_URL", server.url)
        monkeypatch.setenv("QUARTERMASTER_TOKEN", TOKEN)
        yield server


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process."""

    def run(*given: str) -> Said:
        capsys.readouterr()
        code = main(given)
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return run
