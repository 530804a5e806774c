"""TrainingJobManager and ElasticTrainer: the life of training jobs, and how wide they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.autoscaler.policies import ResourceRequest
from orchestrator.errors import ConfigurationError, UnknownEntityError, ValidationError
from orchestrator.kernels.state.codes import JobCode, JobKind
from orchestrator.types import JobSpec
from orchestrator.workloads.advice import Rightsizer
from orchestrator.workloads.throughput import ThroughputModel

if TYPE_CHECKING:
    from orchestrator.orchestrator import InfrastructureOrchestrator

__all__ = ["ElasticTrainer", "TrainingJobManager"]


_ENDED = (JobCode.COMPLETED, JobCode.FAILED)


class TrainingJobManager:
    """Submits, pauses and watches training jobs.

    Parameters
    ----------
    orchestrator : InfrastructureOrchestrator
        Where they run.
    rightsizer : Rightsizer or None, optional
        Learns from reported usage what jobs should ask for; None: nothing is recommended.
    """

    def __init__(
        self, orchestrator: InfrastructureOrchestrator, *, rightsizer: Rightsizer | None = None
    ) -> None:
        self._orchestrator = orchestrator
        self._rightsizer = rightsizer

    async def submit(self, spec: JobSpec, *, rightsize: bool = False) -> str:
        """Submit a training job; its identity.

        Parameters
        ----------
        spec : JobSpec
        rightsize : bool, optional
            Ask for what :meth:`recommended` says instead of what ``spec`` says.

        Raises
        ------
        ValidationError
            If it is of another kind, or cannot be submitted.
        """
        if spec.kind != JobKind.TRAINING:
            me, problem = f"JobSpec '{spec.job_id}'", f"is {spec.kind.name}"
            raise ValidationError(me, "kind", problem, "give a job of kind TRAINING")
        self._settle()
        if rightsize:
            spec = self._sizes().rightsized(spec)
        return await self._orchestrator.submit_job(spec)

    def admit(self, spec: JobSpec) -> JobSpec:
        """A job as it is: what it asks for is changed only where whoever submits it says so."""
        return spec

    async def review(self) -> None:
        """Learn from jobs that have ended."""
        self._settle()

    def report_usage(self, job_id: str, *, cpus: float, memory_gb: float) -> None:
        """Say what one worker of a job uses now: cores, and GiB of host memory.

        Raises
        ------
        ConfigurationError
            If this manager has no rightsizer.
        UnknownEntityError
            If there is no such training job.
        ValidationError
            If an amount is negative or not finite.
        """
        sizes = self._sizes()
        self._require(job_id)
        if self._state(job_id) not in _ENDED:
            sizes.note(job_id, cpus=cpus, memory_gb=memory_gb)
        self._settle()

    def recommended(self, spec: JobSpec) -> ResourceRequest:
        """What a job should ask for, by what completed jobs of its group used, and why.

        Raises
        ------
        ConfigurationError
            If this manager has no rightsizer.
        """
        self._settle()
        return self._sizes().recommend(spec)

    async def pause(self, job_id: str, reason: str = "paused") -> bool:
        """Save a job and put it back into the queue, from which it may be scheduled again."""
        self._require(job_id)
        return await self._orchestrator.preempt_job(job_id, reason)

    def status(self, job_id: str) -> dict[str, Any]:
        """What is known of a job.

        With a rightsizer, ``peak_usage`` (of its worker that used most; None: not reported, or the
        job has ended) and ``recommended`` (amounts, and the reason) besides.
        """
        self._require(job_id)
        found = self._orchestrator.get_job_status(job_id)
        if self._rightsizer is not None:
            advice = self.recommended(self._orchestrator.jobs[job_id])
            found["peak_usage"] = self._rightsizer.peak(job_id)
            found["recommended"] = {**advice.amounts, "reason": advice.reason}
        return found

    def jobs(self) -> list[str]:
        """Training jobs that are known, in the order of their submission."""
        specs = self._orchestrator.jobs.values()
        return [spec.job_id for spec in specs if spec.kind == JobKind.TRAINING]

    def _settle(self) -> None:
        """Let the rightsizer learn from jobs that have ended since."""
        sizes = self._rightsizer
        for job_id in sizes.watched if sizes is not None else ():
            spec = self._orchestrator.jobs.get(job_id)
            state = None if spec is None else self._state(job_id)
            if sizes is not None and (state is None or state in _ENDED):
                sizes.ended(job_id, spec, completed=state == JobCode.COMPLETED)

    def _state(self, job_id: str) -> JobCode:
        return self._orchestrator.engine.jobs.code(job_id)

    def _sizes(self) -> Rightsizer:
        if self._rightsizer is None:
            raise ConfigurationError(
                "TrainingJobManager: there is no 'rightsizer'; construct it with one"
            )
        return self._rightsizer

    def _require(self, job_id: str) -> None:
        spec = self._orchestrator.jobs.get(job_id)
        if spec is None or spec.kind != JobKind.TRAINING:
            raise UnknownEntityError(f"no training job '{job_id}'; {len(self.jobs())} are known")


class ElasticTrainer:
    """Gives running elastic jobs the number of workers of highest goodput.

    Parameters
    ----------
    orchestrator : InfrastructureOrchestrator
        Where they run.
    models : mapping of str to ThroughputModel
        By job, how fast it is on how many workers.
    """

    def __init__(
        self, orchestrator: InfrastructureOrchestrator, models: Mapping[str, ThroughputModel]
    ) -> None:
        self._orchestrator = orchestrator
        self._models = dict(models)

    def learn(self, job_id: str, model: ThroughputModel) -> None:
        """How fast a job is, as known from now on."""
        self._models[job_id] = model

    def admit(self, spec: JobSpec) -> JobSpec:
        """A job as it is: nothing is known of it yet."""
        return spec

    async def review(self) -> None:
        """Tune every running job that has a model."""
        await self.tune_all()

    def goodput(self, job_id: str) -> float:
        """Useful samples per second of a job as it is placed; 0 if it is not."""
        places = self._orchestrator.engine.workers_of(job_id)
        if not places:
            return 0.0
        across = len({place.node_id for place in places}) > 1
        return float(self._model(job_id).goodput(len(places), across))

    def best_workers(self, job_id: str) -> int:
        """The number of workers of highest goodput that a job could have now.

        It is within the job's bounds, and counts idle GPUs as if they were one after the other on
        its nodes and then on others.
        """
        spec = self._spec(job_id)
        now = len(self._orchestrator.engine.workers_of(job_id))
        most = max(min(spec.max_workers, now + self._idle(spec)), spec.min_workers)
        return self._model(job_id).best_workers(most, self._per_node(spec), least=spec.min_workers)

    async def tune(self, job_id: str) -> bool:
        """Resize a running job to its best number of workers; whether that changed anything.

        The job is not restarted. If the workers do not fit after all, it stays as it is.
        """
        now = len(self._orchestrator.engine.workers_of(job_id))
        best = self.best_workers(job_id)
        return now not in (0, best) and await self._orchestrator.scale_job(job_id, best)

    async def tune_all(self) -> dict[str, int]:
        """Tune every running job that has a model; the new sizes of those that changed."""
        changed = {}
        for job_id in list(self._models):
            known = job_id in self._orchestrator.jobs
            if known and await self.tune(job_id):
                changed[job_id] = len(self._orchestrator.engine.workers_of(job_id))
        return changed

    def _idle(self, spec: JobSpec) -> int:
        """Workers that the idle GPUs of all nodes in service would hold."""
        return self._orchestrator.resources.gpus.idle_workers(spec.gpus_per_worker)

    def _per_node(self, spec: JobSpec) -> int:
        """Workers that the largest node holds."""
        gpus = max((node.gpus for node in self._orchestrator.nodes.values()), default=1)
        return max(gpus // max(spec.gpus_per_worker, 1), 1)

    def _spec(self, job_id: str) -> JobSpec:
        spec = self._orchestrator.jobs.get(job_id)
        if spec is None:
            raise UnknownEntityError(f"no job '{job_id}'; submit it first")
        if not spec.elastic:
            me = f"JobSpec '{job_id}'"
            raise ValidationError(me, "elastic", "is False", "only elastic jobs can be resized")
        return spec

    def _model(self, job_id: str) -> ThroughputModel:
        if job_id not in self._models:
            raise UnknownEntityError(f"no throughput model of job '{job_id}'; call learn() first")
        return self._models[job_id]
