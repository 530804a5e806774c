"""Commands about jobs: hand in, look at, follow, change."""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.request import JobFlags, job_of, jobs_in
from orchestrator.cli.terminal import (
    AsJson,
    At,
    Exit,
    connect,
    job_exit,
    show_json,
    table,
    told,
    with_flags,
)
from orchestrator.errors import ConfigurationError

if TYPE_CHECKING:
    from orchestrator.client import Client, JobFields, JobStatus

__all__ = ["add_jobs"]


_JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's identity.")]
_Reason = Annotated[str, typer.Option("--reason", help="Why, for the record.")]
_ONE_LINE = {"allow_interspersed_args": False}  # what follows the first argument is the job's own


def add_jobs(app: typer.Typer) -> None:
    """Add the commands to a program."""
    app.command("submit", context_settings=_ONE_LINE)(with_flags(JobFlags)(submit))
    for command in (ls, show, logs, attach, wait, cancel, scale, preempt, migrate):
        app.command()(command)


def submit(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND...", help="What each worker runs: no shell reads it."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="YAML with the same names; each document is a job."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow its output, and end as the job does.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only ask whether it would be taken.")
    ] = False,
    at: At = None,
    as_json: AsJson = False,
    *,
    flags: JobFlags,
) -> None:
    """Hand in a job, or the jobs of a file.

    Example: quartermaster submit --name train -w 2 -g 1 --time-limit 2h -- python train.py
    """
    jobs = _asked_for(file, flags, command)
    if watch and (len(jobs) > 1 or dry_run):
        raise ConfigurationError(
            "--watch: it follows one job that runs; submit the others, then 'quartermaster wait' "
            "for them"
        )
    with connect(at, patient=watch) as client:
        if dry_run or len(jobs) > 1:  # all of a file are taken, or none
            checked = [client.submit(dry_run=True, **job) for job in jobs]
            if dry_run:
                _tell_taken(checked, as_json, "would be taken")
                return
        if not watch:
            _submit_all(client, jobs, as_json)
            return
        taken = [client.submit(key=secrets.token_hex(16), **job) for job in jobs]
        job_id = taken[0]["job_id"]
        if as_json:
            show_json(taken[0], compact=True)
        else:
            told(f"job {job_id} submitted")
        raise typer.Exit(_follow(client, job_id, as_json))


def _submit_all(client: Client, jobs: list[JobFields], as_json: bool) -> None:
    """Submit jobs; those that are taken are told, though another one be refused then."""
    taken: list[Any] = []
    try:
        for job in jobs:
            taken.append(client.submit(key=secrets.token_hex(16), **job))
            if not as_json:
                _tell_taken(taken[-1:], as_json, "submitted")
    finally:
        if as_json and taken:
            show_json(taken if len(jobs) > 1 else taken[0])


def _refuse_repeated(file: Path, jobs: list[JobFields]) -> None:
    """Refuse jobs of one identity: the server could only say so when one of them is taken."""
    found = Counter(job["job_id"] for job in jobs if job.get("job_id"))
    for job_id, count in found.items():
        if count > 1:
            problem = f"{file}: {count} jobs have the id '{job_id}'"
            raise ConfigurationError(f"{problem}; give every job its own 'id', or none")


def _asked_for(file: Path | None, flags: JobFlags, command: list[str] | None) -> list[JobFields]:
    """The jobs of a file, each with what the flags say besides."""
    given = job_of({**vars(flags), "command": command or None}, "submit")
    if file is None:
        if not given.get("command"):
            raise ConfigurationError(
                "submit: there is no command; add '-- COMMAND ...', or -f FILE"
            )
        given.setdefault("name", Path(given["command"][0]).name)
        return [given]
    jobs = jobs_in(file)
    for k, job in enumerate(jobs):
        job.update(given)
        job.setdefault("name", file.stem if len(jobs) == 1 else f"{file.stem}-{k + 1}")
    _refuse_repeated(file, jobs)
    return jobs


def _tell_taken(taken: list[Any], as_json: bool, what: str) -> None:
    if as_json:
        show_json(taken[0] if len(taken) == 1 else taken)
        return
    for job in taken:
        typer.echo(f"job {job['job_id']} {what}")


def _follow(client: Client, job_id: str, as_json: bool) -> int:
    """Print what a job writes until it ends; how it ended."""
    try:
        for text in client.logs(job_id, follow=True):
            _tell(text, as_json)
        status = client.wait(job_id)
    except KeyboardInterrupt:
        told(
            f"\njob {job_id} runs on; 'quartermaster attach {job_id}' follows it again, "
            f"'quartermaster cancel {job_id}' ends it"
        )
        return Exit.INTERRUPTED
    return _ended(status, as_json)


def _tell(text: str, as_json: bool) -> None:
    """Print a line of output."""
    if as_json:
        show_json({"line": text.removesuffix("\n")}, compact=True)
    else:
        typer.echo(text, nl=False)


def _ended(status: JobStatus, as_json: bool) -> int:
    if as_json:
        names = ("job_id", "state", "exit_code", "reason")
        show_json({name: status.get(name) for name in names}, compact=True)
    elif status.get("state") != "completed":
        reason, *_ = (status.get("reason") or "no reason").splitlines()  # then comes its output
        told(f"job {status['job_id']} {status['state']}: {reason}")
    return job_exit(status)


def ls(
    state: Annotated[
        str | None, typer.Option("--state", "-s", help="Only these: running, pending, failed ...")
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="Only this one's.")] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Only of this name.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first.

    Example: quartermaster ls --state running
    """
    with connect(at) as client:
        jobs = client.jobs(state=state, tenant=tenant, name=name, limit=limit)
    if as_json:
        show_json(jobs)
        return
    from orchestrator.cli.views import JOB_COLUMNS, job_row

    table(JOB_COLUMNS, map(job_row, jobs), "no jobs")


def show(job_id: _JobId, at: At = None, as_json: AsJson = False) -> None:
    """Show all that is known of a job, and what happened to it.

    Example: quartermaster show train-4f2a91
    """
    with connect(at) as client:
        job = client.job(job_id)
    if as_json:
        show_json(job)
        return
    from orchestrator.cli.views import show_job

    show_job(job)


def logs(
    job_id: _JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    worker: Annotated[
        int | None, typer.Option("--worker", min=0, help="Only of the worker of this rank.")
    ] = None,
    run: Annotated[
        int | None, typer.Option("--run", min=0, help="Of this start of the job, not of the last.")
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", min=0, help="Only so many lines at the end.")
    ] = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Print what a job's workers have written.

    Example: quartermaster logs -f train-4f2a91 --tail 20
    """
    with connect(at, patient=follow) as client:
        try:
            for text in client.logs(job_id, worker=worker, run=run, tail=tail, follow=follow):
                _tell(text, as_json)
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None


def attach(job_id: _JobId, at: At = None, as_json: AsJson = False) -> None:
    """Follow a job's output to its end, and end as the job does. Ctrl-C leaves the job running.

    Example: quartermaster attach train-4f2a91
    """
    with connect(at, patient=True) as client:
        raise typer.Exit(_follow(client, job_id, as_json))


def wait(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB...", help="Jobs to wait for.")],
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="For how many seconds; then it ends with 124.")
    ] = float("inf"),
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Wait for jobs; end with the exit code of the first one that has not completed.

    Example: quartermaster wait train-4f2a91 && echo fine
    """
    import time

    until_s = time.monotonic() + timeout
    code = 0
    with connect(at, patient=True) as client:
        for job_id in job_ids:
            status = client.wait(job_id, max(0.0, until_s - time.monotonic()))
            if not status.get("ended"):
                told(f"job {job_id} has not ended after {timeout:g} s; it is {status['state']}")
                raise typer.Exit(Exit.TIME_IS_UP)
            code = code or _ended(status, as_json)
    raise typer.Exit(code)


def cancel(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB...", help="Jobs to end.")],
    reason: _Reason = "",
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """End jobs, whether they wait or run.

    Example: quartermaster cancel train-4f2a91 --reason "wrong data"
    """
    with connect(at) as client:
        _changed([client.cancel(job_id, reason) for job_id in job_ids], as_json, "cancelled")


def scale(
    job_id: _JobId,
    workers: Annotated[int, typer.Argument(metavar="N", min=0, help="How many workers.")],
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Give an elastic job another number of workers.

    Example: quartermaster scale train-4f2a91 4
    """
    with connect(at) as client:
        _changed([client.scale(job_id, workers)], as_json, f"scaled to {workers} workers")


def preempt(job_id: _JobId, reason: _Reason = "", at: At = None, as_json: AsJson = False) -> None:
    """Save a job and put it back into the queue.

    Example: quartermaster preempt train-4f2a91
    """
    with connect(at) as client:
        _changed([client.preempt(job_id, reason)], as_json, "preempted")


def migrate(job_id: _JobId, at: At = None, as_json: AsJson = False) -> None:
    """Move a running job to a tighter place: it is saved, and started again there.

    Example: quartermaster migrate train-4f2a91
    """
    with connect(at) as client:
        _changed([client.migrate(job_id)], as_json, "moved")


def _changed(answers: list[Any], as_json: bool, what: str) -> None:
    """Say what became of jobs; end with 1 if one was left as it was."""
    if as_json:
        show_json(answers[0] if len(answers) == 1 else answers)
    for answer in answers:
        job_id = answer.get("job", {}).get("job_id", "")
        if not answer["done"]:
            told(f"job {job_id} was not {what}: {answer.get('why') or 'no reason was given'}")
        elif not as_json:
            typer.echo(f"job {job_id} {what}")
    if not all(answer["done"] for answer in answers):
        raise typer.Exit(Exit.FAILED)
