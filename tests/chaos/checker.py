"""What must hold after any day, judged by the machines' own record, the log and the clients.

It asks the orchestrator for nothing but the final states of jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from orchestrator.messages import Lead, Submit, WorkerExited
from tests.chaos.machines import Span
from tests.chaos.schedule import World

__all__ = ["violations"]


def violations(world: World) -> list[str]:
    """All that does not hold, for people."""
    return [
        *_unkept_promises(world),
        *_lost_jobs(world),
        *_two_runs_at_once(world.machines.spans),
        *_shared_gpus(world.machines.spans),
        *_torn_gangs(world),
        *_leftovers(world),
    ]


def _unkept_promises(world: World) -> Iterable[str]:
    """A submission that was acknowledged is in the log, once among those that count."""
    submitted = Counter[str]()
    for at, entry in enumerate(world.log.written):
        if isinstance(entry.body, Submit) and entry.term == _term_at(world, at):
            submitted[entry.body.spec.job_id] += 1
    for spec in world.acknowledged:
        if submitted[spec.job_id] == 0:
            yield f"job {spec.job_id} was acknowledged and is not in the log"


def _term_at(world: World, at: int) -> int:
    terms = [k for k, entry in enumerate(world.log.written[:at]) if isinstance(entry.body, Lead)]
    return terms[-1] if terms else -1


def _lost_jobs(world: World) -> Iterable[str]:
    """Every job has ended well: no misfortune is a job's own fault."""
    for spec in world.acknowledged:
        status = world.cluster.get_job_status(spec.job_id)
        if status["state"] != "completed":
            yield f"job {spec.job_id} is {status['state']}: {status.get('reason')}"
    ends = Counter(
        entry.body.job_id
        for at, entry in enumerate(world.log.written)
        if isinstance(entry.body, WorkerExited) and entry.term == _term_at(world, at)
    )
    for spec in world.acknowledged:
        if ends[spec.job_id] == 0:
            yield f"job {spec.job_id} has ended and the log does not say so"


def _overlaps(spans: Iterable[Span]) -> Iterable[tuple[Span, Span]]:
    """Pairs of which one begins while the other one is there."""
    there: list[Span] = []
    for span in sorted(spans, key=lambda span: span.begin_ms):
        there = [old for old in there if old.end_ms is None or old.end_ms > span.begin_ms]
        yield from ((old, span) for old in there)
        there.append(span)


def _two_runs_at_once(spans: list[Span]) -> Iterable[str]:
    by_job: dict[str, list[Span]] = {}
    for span in spans:
        by_job.setdefault(span.job_id, []).append(span)
    for own in by_job.values():
        for old, new in _overlaps(own):
            if old.run != new.run and old.end_ms != old.begin_ms:
                yield f"job {new.job_id} runs twice: {old} and {new}"


def _shared_gpus(spans: list[Span]) -> Iterable[str]:
    by_gpu: dict[tuple[str, int], list[Span]] = {}
    for span in spans:
        for gpu in span.gpus:
            by_gpu.setdefault((span.node_id, gpu), []).append(span)
    for spot, own in by_gpu.items():
        for old, new in _overlaps(own):
            yield f"GPU {spot} is held twice: {old} and {new}"


def _torn_gangs(world: World) -> Iterable[str]:
    """All workers of a run begin together; later ones come to elastic jobs only."""
    asked = {spec.job_id: spec for spec in world.acknowledged}
    by_run: dict[tuple[str, int], list[Span]] = {}
    for span in world.machines.spans:
        by_run.setdefault((span.job_id, span.run), []).append(span)
    for (name, run), spans in by_run.items():
        spec = asked[name]
        first_ms = min(span.begin_ms for span in spans)
        together = sum(span.begin_ms == first_ms for span in spans)
        least = spec.min_workers if spec.elastic else spec.num_workers
        if together < least or (not spec.elastic and together != len(spans)):
            yield f"run {run} of {name} began with {together} of {least} workers"


def _leftovers(world: World) -> Iterable[str]:
    """Nothing runs, and nothing waits to be said or done, when all is over."""
    for span in world.machines.spans:
        if span.end_ms is None:
            yield f"nobody has ended {span}"
    for name, run in world.machines.observe().items():
        yield f"run {run} of {name} is left"
    told = world.cluster.get_cluster_status()["errors"]
    for what in ("effects_waiting", "reports_waiting"):
        if told[what]:
            yield f"{told[what]} {what}"
