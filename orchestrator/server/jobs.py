"""Routes of jobs: submit, look at, change, wait for, and read what they write."""

from __future__ import annotations

import re
import secrets
from collections.abc import Container
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import Field
from starlette.responses import PlainTextResponse, Response

from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.kernels.state.codes import JobCode, JobKind, Topology
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.server.guard.access import Who, answers, only, principal
from orchestrator.server.guard.tokens import Role
from orchestrator.server.output import RECORDS, OutputReader, Wanted, positions_of
from orchestrator.server.parts import Cursor, Limit, Parts, StrictBody, member, told
from orchestrator.server.problems import ConflictError
from orchestrator.types import JobPriority, JobSpec, JobState

__all__ = ["JobBody", "routes"]


_JOB_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
_POSITION = r"[0-9]{1,9}\.[0-9]{1,6}:[0-9]{1,18}"
_POSITIONS = rf"^({_POSITION}(,{_POSITION})*)?$"
_ENDED = frozenset({JobState.COMPLETED.value, JobState.FAILED.value})


def _any_case(names: list[str]) -> Any:
    """What a field takes that names one of several things, in the API's description."""
    return Field(json_schema_extra={"enum": [*names, *(name.lower() for name in names)]})


_Hours = Annotated[float, Field(gt=0, le=1e6)]
_Amount = Annotated[float, Field(ge=0, le=1e9)]
_Count = Annotated[int, Field(ge=0, le=1_000_000)]
_Text = Annotated[str, Field(min_length=1, max_length=200)]
_Part = Annotated[str, Field(max_length=131_072)]


class JobBody(StrictBody):
    """A job to be: the fields of ``JobSpec``, all but the name optional."""

    name: _Text
    job_id: Annotated[
        str | None, Field(pattern=_JOB_ID, description="Made if it is not given.")
    ] = None
    command: Annotated[list[_Part], Field(default_factory=list, max_length=10_000)]
    priority: Annotated[str, _any_case([one.name for one in JobPriority])] = "BATCH"
    num_workers: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    gpus_per_worker: _Count = 0
    memory_per_worker_gb: _Amount = 0.5
    max_duration_hours: _Hours = 24.0
    checkpoint_interval_steps: _Count = 0
    elastic: bool = False
    min_workers: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    max_workers: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    preemptible: bool = False
    gang_schedule: bool = True
    topology_aware: bool = True
    tenant: _Text = "default"
    cpus_per_worker: _Amount = 0.0
    gpu_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    step_seconds: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    duration_hours: _Hours | None = None
    checkpoint_seconds: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    restart_seconds: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    regroup_seconds: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    checkpoint_gb: _Amount = 0.0
    gpu_memory_gb: _Amount = 0.0
    gpu_models: Annotated[list[_Text], Field(default_factory=list, max_length=64)]
    network_gbps: _Amount = 0.0
    topology: Annotated[str, _any_case([one.name for one in Topology])] = "ANY"
    kind: Annotated[str, _any_case([one.name for one in JobKind])] = "TRAINING"
    deadline_hours: _Hours | None = None
    working_dir: Annotated[str, Field(max_length=4096)] = ""
    environment: Annotated[dict[str, _Part], Field(default_factory=dict, max_length=10_000)]

    def spec(self, taken: Container[str]) -> JobSpec:
        """The specification, with an identity made of the name if it has none.

        Parameters
        ----------
        taken : container of str
            Identities that are in use; none of them is made.

        Raises
        ------
        ValidationError
            Naming the first field that is not valid.
        """
        given = self.model_dump()
        me = f"JobSpec '{self.name}'"
        for field, kind in _NAMED.items():
            given[field] = member(me, field, given[field], kind)
        given["job_id"] = self.job_id or _identity(self.name, taken)
        return JobSpec(**given)


_NAMED: dict[str, Any] = {"priority": JobPriority, "topology": Topology, "kind": JobKind}


def _identity(name: str, taken: Container[str]) -> str:
    """An identity for a job of a name, which can stand in paths and is not taken."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:60] or "job"
    while (made := f"{plain}-{secrets.token_hex(4)}") in taken:
        continue
    return made


class ScaleBody(StrictBody):
    """How many workers a job should have."""

    workers: Annotated[int, Field(ge=0, le=1_000_000)]


class ReasonBody(StrictBody):
    """Why something is done."""

    reason: Annotated[str, Field(max_length=500)] = ""


def describe(orchestrator: InfrastructureOrchestrator, job_id: str) -> dict[str, Any]:
    """What is told of a job: its status, and what it was asked to run."""
    status = orchestrator.get_job_status(job_id)
    spec = orchestrator.jobs[job_id]
    return {
        **status,
        "kind": spec.kind.name,
        "command": list(spec.command),
        "ended": status["state"] in _ENDED,
    }


def _outcome(orchestrator: InfrastructureOrchestrator, job_id: str, done: bool) -> Response:
    """What became of something that was asked for a job, and why if nothing did."""
    job = describe(orchestrator, job_id)
    answer: dict[str, Any] = {"done": done, "job": job}
    if not done:
        refused = [note for note in job["history"] if note["what"] == "refused"]
        if job["ended"]:
            answer["why"] = f"the job has ended ({job['state']}); submit it again"
        elif refused:
            answer["why"] = f"{refused[-1]['reason']}; its state is {job['state']}"
        else:
            answer["why"] = f"it cannot be done while the job's state is {job['state']}"
    return told(answer)


async def _submit(parts: Parts, spec: JobSpec) -> None:
    """Submit a job; raises a :class:`ConflictError` if its identity is taken."""
    taken = f"job_id: '{spec.job_id}' is taken; give every job its own id, or none"
    if spec.job_id in parts.orchestrator.jobs:
        raise ConflictError(taken, "job_id")
    try:
        await parts.orchestrator.submit_job(spec)
    except ValidationError as error:
        if error.field == "job_id" and spec.job_id in parts.orchestrator.jobs:
            raise ConflictError(taken, "job_id") from error
        raise


_SUBMITTED = {"state": JobState.PENDING.value}  # every job begins so; ask for it to know what it is


def routes(parts: Parts) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/jobs", tags=["jobs"])
    _add_submit(router, parts)
    _add_questions(router, parts)
    _add_output(router, parts)
    _add_changes(router, parts)
    return router


def _add_submit(router: APIRouter, parts: Parts) -> None:
    @router.post(
        "",
        status_code=201,
        dependencies=only(Role.SUBMITTER),
        responses={
            200: {"description": "It could be submitted (dry_run)."},
            **answers(408, 409, 413),
        },
        response_class=Response,
    )
    async def submit_job(
        body: JobBody,
        request: Request,
        dry_run: bool = False,
        key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)] = None,
    ) -> Response:
        """Submit a job. With a key that was used before, the same job is meant."""
        spec = body.spec(parts.orchestrator.jobs)
        if dry_run:
            if spec.job_id in parts.orchestrator.jobs:
                raise ConflictError(f"job_id: '{spec.job_id}' is taken; give it another", "job_id")
            parts.orchestrator.check_job(spec)
            return told({"job_id": spec.job_id, "state": None, "dry_run": True})
        job_id = spec.job_id
        if key is None:
            await _submit(parts, spec)
        else:
            job_id = await _submit_once(
                parts, principal(request).name, key, await request.body(), spec
            )
        request.state.audit = {"job_id": job_id}
        return told({"job_id": job_id, **_SUBMITTED}, 201)


async def _submit_once(parts: Parts, who: str, key: str, body: bytes, spec: JobSpec) -> str:
    """Submit a job unless it was submitted with this key; its identity."""
    async with parts.repeats.attempt(who, key, body, spec.job_id) as attempt:
        if attempt.done:
            return attempt.job_id
        if not (attempt.again and attempt.job_id in parts.orchestrator.jobs):
            try:
                await _submit(parts, _with_id(spec, attempt.job_id))
            except (ValidationError, ConflictError):
                parts.repeats.forget(attempt)
                raise
        parts.repeats.finish(attempt)
        return attempt.job_id


def _with_id(spec: JobSpec, job_id: str) -> JobSpec:
    return spec if spec.job_id == job_id else replace(spec, job_id=job_id)


def _add_questions(router: APIRouter, parts: Parts) -> None:
    viewers, orchestrator = only(Role.VIEWER), parts.orchestrator

    @router.get("", dependencies=viewers, responses=answers(), response_class=Response)
    async def list_jobs(
        state: Annotated[str | None, _any_case([one.value for one in JobState])] = None,
        tenant: str | None = None,
        name: str | None = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Response:
        """Jobs that are known, the one that was submitted last first."""
        wanted = None if state is None else state.lower()
        items, after = orchestrator.list_jobs(
            state=wanted, tenant=tenant, name=name, limit=limit, before=cursor
        )
        return told({"items": items, "next_cursor": after})

    @router.get("/{job_id}", dependencies=viewers, responses=answers(404))
    async def show_job(job_id: str) -> Response:
        """What is known of a job."""
        return told(describe(orchestrator, job_id))

    @router.get("/{job_id}/wait", dependencies=viewers, responses=answers(404))
    async def wait_for_job(
        job_id: str, who: Who, timeout_s: Annotated[float, Query(ge=0, le=300)] = 30.0
    ) -> Response:
        """What is known of a job once it has ended, or when the time is over."""
        parts.streams.reserve(who)
        await parts.streams.race(who, _end_of(orchestrator, job_id), timeout_s)
        return told(describe(orchestrator, job_id))


def _wanted(
    job_id: str,
    request: Request,
    worker: Annotated[int | None, Query(ge=0, le=1_000_000)] = None,
    run: Annotated[int | None, Query(ge=1, le=1_000_000_000)] = None,
    tail: Annotated[int | None, Query(ge=0, le=100_000)] = None,
    follow: bool = False,
    since: Annotated[str, Query(pattern=_POSITIONS)] = "",
) -> Wanted:
    """Which part of a job's output a request wants, and in which form."""
    records = RECORDS in request.headers.get("Accept", "")
    return Wanted(job_id, worker, run, tail, follow, records, positions_of(since))


def _add_output(router: APIRouter, parts: Parts) -> None:
    viewers, orchestrator = only(Role.VIEWER), parts.orchestrator

    @router.get(
        "/{job_id}/logs",
        dependencies=viewers,
        responses={200: {"content": {"text/plain": {}, RECORDS: {}}}, **answers(404, 409)},
        response_class=PlainTextResponse,
    )
    async def read_logs(who: Who, wanted: Annotated[Wanted, Depends(_wanted)]) -> Response:
        """What the job's workers have written; with ``follow``, and write until it has ended.

        As records if that is accepted: each says where it stands, and ``since`` goes on from there
        (``run.worker:offset``, with commas between).
        """
        reader = OutputReader(orchestrator, wanted)
        try:
            first = await reader.kept()
        except ConfigurationError as error:
            raise ConflictError(str(error)) from error
        media_type = RECORDS if wanted.records else "text/plain; charset=utf-8"
        return parts.streams.stream(who, reader.text(first), media_type)


def _has_ended(orchestrator: InfrastructureOrchestrator, job_id: str) -> bool:
    return orchestrator.engine.jobs.code(job_id) in (JobCode.COMPLETED, JobCode.FAILED)


async def _end_of(orchestrator: InfrastructureOrchestrator, job_id: str) -> None:
    """Return when a job has ended, or is not known any more."""
    last, _ = orchestrator.happenings(limit=1)
    since = last[-1].cursor if last else "0.0"
    if _has_ended(orchestrator, job_id):
        return
    async for one in orchestrator.follow(since):
        about = one.job_id == job_id or one.kind == "gap"
        if about and (job_id not in orchestrator.jobs or _has_ended(orchestrator, job_id)):
            return


def _add_changes(router: APIRouter, parts: Parts) -> None:
    submitters, orchestrator = only(Role.SUBMITTER), parts.orchestrator

    @router.post("/{job_id}/cancel", dependencies=submitters, responses=answers(404, 408, 409, 413))
    async def cancel_job(job_id: str, request: Request, body: ReasonBody | None = None) -> Response:
        """End a job; it does not come back."""
        reason = body.reason if body is not None else ""
        request.state.audit = {"job_id": job_id, "reason": reason}
        return _outcome(orchestrator, job_id, await orchestrator.cancel_job(job_id, reason))

    @router.post("/{job_id}/scale", dependencies=submitters, responses=answers(404, 408, 409, 413))
    async def scale_job(job_id: str, body: ScaleBody, request: Request) -> Response:
        """Give a running elastic job, or a service, another number of workers."""
        request.state.audit = {"job_id": job_id, "workers": body.workers}
        return _outcome(orchestrator, job_id, await orchestrator.scale_job(job_id, body.workers))

    @router.post(
        "/{job_id}/preempt", dependencies=submitters, responses=answers(404, 408, 409, 413)
    )
    async def preempt_job(
        job_id: str, request: Request, body: ReasonBody | None = None
    ) -> Response:
        """Save a running job, and put it back into the queue."""
        reason = body.reason if body is not None else ""
        request.state.audit = {"job_id": job_id, "reason": reason}
        return _outcome(orchestrator, job_id, await orchestrator.preempt_job(job_id, reason))

    @router.post("/{job_id}/migrate", dependencies=submitters, responses=answers(404, 408, 409))
    async def migrate_job(job_id: str, request: Request) -> Response:
        """Move a running job to a tighter place: saved where it is, started again where it goes."""
        request.state.audit = {"job_id": job_id}
        return _outcome(orchestrator, job_id, await orchestrator.migrate_job(job_id))
