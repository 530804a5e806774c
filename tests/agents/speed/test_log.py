"""What is measured of the durable log does happen."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.speed.live.log import (
    LivedLog,
    LongLife,
    appended_per_second,
    disk_per_second,
    submitted_per_second,
)


def test_a_lived_log_knows_all_its_jobs_after_a_restart(tmp_path: Path) -> None:
    lived = LivedLog(tmp_path, 230)
    assert lived.restart() == lived.restart() == 230
    # Two entries to begin with, and for each batch of 200 one decision.
    assert lived.entries == 2 + 230 + 207 + 2
    assert lived.mib > 0.0


def test_a_long_life_is_looked_at_after_each_tenth_of_its_jobs(tmp_path: Path) -> None:
    life = LongLife(tmp_path, 1000, table=400)  # most of them are forgotten
    assert len(life.memory_mib) == len(life.log_mib) == 5  # of batches of 200
    assert min(life.memory_mib) > 0.0
    assert min(life.log_mib) > 0.0
    assert life.grown_mib == pytest.approx(life.memory_mib[-1] - life.memory_mib[2])


def test_rates_are_of_what_was_done() -> None:
    assert disk_per_second(5) > 0.0
    assert appended_per_second(10, 4, group=1) > 0.0
    assert submitted_per_second(10, 4) > 0.0
