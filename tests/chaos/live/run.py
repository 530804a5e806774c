"""Live schedules, several at once: ``python -m tests.chaos.live.run --seeds 100 --first 0``.

A failure prints its seed, what was found and what had happened, and keeps the schedule's files.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.live.checker import entries_of, gaps, violations
from tests.chaos.live.plan import Plan, plan_of
from tests.chaos.live.world import World
from tests.chaos.live.zygote import Zygote


@dataclass(frozen=True)
class Verdict:
    """What came of a schedule."""

    seed: int
    found: tuple[str, ...]
    happened: tuple[str, ...]
    entries: int
    workers: int
    longest_s: float  # interruption, what is excused not counted
    calm_s: float


@asynccontextmanager
async def zygotes() -> AsyncIterator[tuple[Zygote, Zygote]]:
    """The parents of leaders and of agents."""
    pair = Zygote("leader"), Zygote("agent")
    await asyncio.gather(*(zygote.start() for zygote in pair))
    try:
        yield pair
    finally:
        for zygote in pair:
            await zygote.stop()


async def judge(
    plan: Plan, folder: Path, parents: tuple[Zygote, Zygote], mutation: str = ""
) -> Verdict:
    """Carry a schedule out in a folder, and see whether all holds."""
    world = World(plan, folder, *parents, mutation)
    await world.live()
    found = await asyncio.to_thread(violations, world)
    lives = world.lives()
    longest_s = max((gap[2] for gap in gaps(world, lives)), default=0.0)
    calm_s = (world.quiet_us - world.calm_us) / 1e6
    entries = len(entries_of(folder / "log"))
    return Verdict(
        plan.seed,
        tuple(found),
        tuple(world.happened),
        entries,
        len(lives),
        longest_s,
        calm_s,
    )


async def judge_all(cases: dict[str, tuple[Plan, str]], folder: Path) -> dict[str, Verdict]:
    """Carry out schedules with what is broken in each, all at once."""
    async with zygotes() as parents:
        for name in cases:
            (folder / name).mkdir()
        work = (judge(plan, folder / name, parents, how) for name, (plan, how) in cases.items())
        done = await asyncio.gather(*work, return_exceptions=True)
    failed = [error for error in done if isinstance(error, BaseException)]
    if failed:
        raise failed[0]
    return dict(zip(cases, done, strict=True))


async def play(seeds: Iterable[int], at_once: int, folder: Path) -> list[Verdict]:
    """Carry schedules out; those that fail are told at once."""
    verdicts: list[Verdict] = []
    turns = asyncio.Semaphore(at_once)
    begin_s = time.monotonic()

    async def one(seed: int, parents: tuple[Zygote, Zygote]) -> None:
        async with turns:
            own = folder / str(seed)
            own.mkdir(parents=True)
            verdict = await judge(plan_of(seed), own, parents)
        verdicts.append(verdict)
        if verdict.found:
            print(f"FAILED seed {seed}", *verdict.found, *verdict.happened, sep="\n  ", flush=True)
        else:
            shutil.rmtree(own, ignore_errors=True)
        if len(verdicts) % 50 == 0:
            failed = sum(bool(v.found) for v in verdicts)
            took_s = time.monotonic() - begin_s
            print(f"{len(verdicts)} schedules, {failed} failed, {took_s:.0f} s", flush=True)

    async with zygotes() as parents:
        await asyncio.gather(*(one(seed, parents) for seed in seeds))
    return verdicts


def main() -> int:
    """Play what is asked for; 1 if something failed."""
    parser = argparse.ArgumentParser(description="Live schedules of misfortune.")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    seeds = range(given.first, given.first + given.seeds)
    before_s = time.monotonic()
    verdicts = asyncio.run(play(seeds, given.at_once, folder))
    failed = sorted(verdict.seed for verdict in verdicts if verdict.found)
    print(
        f"{len(verdicts)} schedules ({seeds[0]} to {seeds[-1]}) in "
        f"{time.monotonic() - before_s:.0f} s: {len(failed)} failed {failed}; "
        f"{sum(v.entries for v in verdicts)} entries, {sum(v.workers for v in verdicts)} workers, "
        f"longest interruption {max(v.longest_s for v in verdicts):.2f} s, "
        f"longest calm {max(v.calm_s for v in verdicts):.2f} s"
    )
    if failed:
        print(f"files of those that failed: {folder}; again: --first SEED --seeds 1")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
