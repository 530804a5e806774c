"""What is injected fails, loses its answer or says things twice: nothing is lost, doubled, stopped.

Every port is wrapped; when a call fails is drawn from a seed. The checker looks at the log, at what
the runtime was told and at what is rented, not at the orchestrator's own accounts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator import InfrastructureOrchestrator, VirtualClock, in_memory
from orchestrator.autoscaler import HorizontalScaler, ScalingPlan
from orchestrator.errors import InvariantError, StorageError, ValidationError
from orchestrator.foundations import InMemoryCheckpoints, InMemoryConsensus
from orchestrator.live.retry import Persistent
from orchestrator.messages import Effect, Entry, Event, StartJob, WorkerExited
from orchestrator.runtimes import SimulatedProvisioner, SimulatedRuntime
from orchestrator.scheduling.rules import RULES, policy_of
from orchestrator.types import JobPriority, NodeSpec
from tests.engine.builders import HOUR_MS, SHAPE, job, node


class Faults:
    """Says when a call fails: before it does its work, or after, so that the answer is lost."""

    def __init__(self, seed: int, share: float) -> None:
        self._rng = np.random.default_rng(seed)
        self._share = share
        self.on = True
        self.count: Counter[str] = Counter()

    def strike(self, port: str) -> None:
        """Raise, or not."""
        if self.on and self._rng.random() < self._share:
            self.count[port] += 1
            full = port.startswith("log") and self.count[port] % 2
            raise (StorageError if full else OSError)(f"{port} does not answer")

    def draw(self) -> float:
        """A number from 0 to 1."""
        return float(self._rng.random())


class _Log(InMemoryConsensus):
    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    async def append(self, entry: Entry) -> int:
        self._faults.strike("log")
        index = await super().append(entry)
        self._faults.strike("log, after writing")
        return index


class _Store(InMemoryCheckpoints):
    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    def save(self, job_id: str, progress_ms: int, time_ms: int) -> str:
        self._faults.strike("store")
        return super().save(job_id, progress_ms, time_ms)

    def commit(self, checkpoint_id: str) -> None:
        self._faults.strike("store")
        super().commit(checkpoint_id)

    def latest(self, job_id: str) -> Any:
        self._faults.strike("store")
        return super().latest(job_id)


class _Runtime(SimulatedRuntime):
    def __init__(self, clock: VirtualClock, faults: Faults) -> None:
        super().__init__(clock)
        self._faults = faults
        self.told: list[Effect] = []

    def bind(self, deliver: Callable[[Event], Awaitable[object]]) -> None:
        async def twice(event: Event) -> None:
            await deliver(event)
            if self._faults.on and self._faults.draw() < 0.2:
                await deliver(event)

        super().bind(twice)

    def carry_out(self, effects: Sequence[Effect]) -> None:
        self._faults.strike("runtime")
        super().carry_out(effects)
        self.told += effects
        self._faults.strike("runtime, after doing it")


class _Cloud(SimulatedProvisioner):
    def __init__(self, clock: VirtualClock, template: NodeSpec, faults: Faults) -> None:
        super().__init__(clock, template, delay_s=60.0)
        self._faults = faults

    def order(self, count: int) -> None:
        self._faults.strike("cloud")
        super().order(count)

    def release(self, node_ids: Sequence[str]) -> None:
        self._faults.strike("cloud")
        super().release(node_ids)


class _Policy:
    def __init__(self, faults: Faults) -> None:
        self._faults, self._rule = faults, policy_of(RULES["priority"])

    def decide(self, snapshot: Any) -> Any:
        self._faults.strike("policy")
        return self._rule.decide(snapshot)


async def _insist(act: Callable[[], Awaitable[object]], clock: VirtualClock) -> None:
    """A client that asks again until it is answered; a minute passes in between."""
    for _ in range(50):
        try:
            await act()
        except (OSError, StorageError):
            await clock.advance_to(clock.now_ms() + 60_000)
        except ValidationError as error:
            if error.field != "job_id":
                raise
            return  # the answer was lost, and it is submitted already
        else:
            return
    raise AssertionError("fifty times no answer")


async def _bad_day(seed: int, share: float) -> tuple[Faults, InfrastructureOrchestrator, _Runtime]:
    faults, clock = Faults(seed, share), VirtualClock()
    runtime, log = _Runtime(clock, faults), _Log(faults)
    found = in_memory(clock)._replace(consensus_engine=log, checkpoint_manager=_Store(faults))
    cloud = _Cloud(clock, node("rented"), faults)
    cluster = InfrastructureOrchestrator(
        *found,
        clock=clock,
        nodes=[node("own")],
        shape=SHAPE,
        runtime=runtime,
        policy=_Policy(faults),
        provisioner=cloud,
        autoscaler=HorizontalScaler(ScalingPlan(4.0, max_size=3)),
        schedule_on_events=True,
        check=True,
    )
    rng = np.random.default_rng(seed)
    for k in range(12):
        wanted = job(
            f"j{k}",
            gpus_per_worker=int(rng.choice([1, 2, 4])),
            priority=JobPriority(int(rng.integers(4))),
        )
        await _insist(lambda wanted=wanted: cluster.submit_job(wanted), clock)
        await clock.advance_to(clock.now_ms() + int(rng.integers(HOUR_MS)))
        await _insist(cluster.auto_scale_cluster, clock)
    faults.on = False
    for _ in range(60):
        await clock.advance_to(clock.now_ms() + HOUR_MS)
        await cluster.auto_scale_cluster()
    assert cloud.rented <= set(cluster.nodes), "a rented node is neither here nor given back"
    return faults, cluster, runtime


@pytest.mark.property
@pytest.mark.parametrize("share", [0.05, 0.3])
@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_lost_doubled_or_stopped(seed: int, share: float) -> None:
    faults, cluster, runtime = await _bad_day(seed, share)
    assert faults.count, "no fault was injected"
    states = {name: cluster.get_job_status(name)["state"] for name in cluster.jobs}
    assert set(states.values()) == {"completed"}, states
    assert len(states) == 12
    assert not runtime.observe(), "the runtime has workers of jobs that have ended"
    entries = [entry.body for entry in cluster.consensus.entries()]
    ends = Counter(body.job_id for body in entries if isinstance(body, WorkerExited))
    assert ends == dict.fromkeys(states, 1), "an end was logged twice, or not at all"
    starts = {
        (effect.job_id, effect.run) for effect in runtime.told if isinstance(effect, StartJob)
    }
    runs = {name: cluster.engine.runs_of(name) for name in states}
    assert {(name, run + 1) for name, n in runs.items() for run in range(n)} == starts
    waiting = cluster.get_cluster_status()["errors"]
    assert (waiting["effects_waiting"], waiting["reports_waiting"]) == (0, 0)


async def test_status_tells_what_failed() -> None:
    faults, cluster, _ = await _bad_day(3, 0.3)
    told = cluster.get_cluster_status()["errors"]
    assert told["policy"] == faults.count["policy"] > 0
    assert told["last_policy_error"] == "OSError: policy does not answer"
    assert told["runtime"] > 0
    assert told["checkpoints"] > 0


async def test_a_fault_of_our_own_is_not_taken_for_one_of_others() -> None:
    """Invariants that break are heard of, and the work is done again all the same."""
    clock, calls = VirtualClock(), list[int]()

    def work() -> None:
        calls.append(clock.now_ms())
        if len(calls) == 1:
            raise InvariantError("a row broke")

    with pytest.raises(InvariantError, match="a row broke"):
        await Persistent("work", work, clock).run()
    await clock.advance_to(2000)
    assert calls == [0, 1000]
