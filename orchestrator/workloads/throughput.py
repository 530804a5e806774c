"""How fast a training job runs: the throughput model of Pollux, and six applications measured.

Qiao et al., "Pollux: Co-adaptive Cluster Scheduling for Goodput-Optimized Deep Learning", OSDI
2021. The kernels hold the same formula (``kernels/place/throughput.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.kernels.state.records import CURVE_DTYPE, CURVE_MODELS

__all__ = [
    "APPLICATIONS",
    "GPU_SPEEDS_MILLI",
    "ThroughputModel",
    "application_named",
    "curve_records",
]


@dataclass(frozen=True)
class ThroughputModel:
    """Step time, throughput and goodput of one application.

    Parameters
    ----------
    name : str
        Of the application.
    grad_fixed_s, grad_per_sample_s : float
        a_c and b_c: a gradient takes a_c + b_c m seconds for a local batch of m samples.
    node_fixed_s, node_per_worker_s : float
        a_r and b_r: synchronising K > 1 workers takes a_r + b_r (K - 2) within one node.
    network_fixed_s, network_per_worker_s : float
        a_n and b_n: the same across nodes.
    overlap : float
        gamma: 1 for no overlap of gradient and synchronisation, 10 for an almost complete one.
    local_batch : int
        Samples of one worker in one step.
    batch : int
        M0: batch size at which progress is counted.
    noise_scale : float
        phi: gradient noise scale; 0 if larger batches are as good as more steps.
    """

    name: str
    grad_fixed_s: float
    grad_per_sample_s: float
    node_fixed_s: float
    node_per_worker_s: float
    network_fixed_s: float
    network_per_worker_s: float
    overlap: float
    local_batch: int
    batch: int
    noise_scale: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no time, batch or exponent."""
        me = f"ThroughputModel '{self.name}'"
        for field in CURVE_DTYPE.names or ():
            if field == "model_milli":
                continue
            value = float(getattr(self, field))
            if not (np.isfinite(value) and value >= 0):
                raise ValidationError(me, field, f"is {value}", "give a finite number, 0 or more")
        if self.overlap < 1:
            raise ValidationError(me, "overlap", f"is {self.overlap}", "give at least 1")
        if self.local_batch < 1 or self.batch < 1:
            field = "local_batch" if self.local_batch < 1 else "batch"
            raise ValidationError(me, field, "is below 1", "give at least one sample")

    def step_time(
        self,
        workers: ArrayLike,
        across_nodes: ArrayLike,
        local_batch: ArrayLike | None = None,
        accumulation: int = 0,
    ) -> NDArray[np.float64]:
        """Seconds of one step.

        Parameters
        ----------
        workers : int or array of int
            K.
        across_nodes : bool or array of bool
            Whether they are on several nodes.
        local_batch : int or array of int, optional
            m; None: the model's own.
        accumulation : int, optional
            s: gradients accumulated before the one that is synchronised.
        """
        count = np.asarray(workers, dtype=np.float64)
        batch = np.asarray(self.local_batch if local_batch is None else local_batch, np.float64)
        gradient = self.grad_fixed_s + self.grad_per_sample_s * batch
        far = np.asarray(across_nodes, dtype=np.bool_)
        fixed = np.where(far, self.network_fixed_s, self.node_fixed_s)
        each = np.where(far, self.network_per_worker_s, self.node_per_worker_s)
        sync = np.where(count > 1, fixed + each * (count - 2), 0.0)
        longer = np.maximum(np.maximum(gradient, sync), 1e-9)
        ratio = np.minimum(gradient, sync) / longer
        step = longer * (1.0 + ratio**self.overlap) ** (1.0 / self.overlap)
        total: NDArray[np.float64] = accumulation * gradient + step
        return total

    def efficiency(self, batch: ArrayLike) -> NDArray[np.float64]:
        """Progress per sample at a total batch size, relative to M0: (phi + M0) / (phi + M)."""
        total = np.asarray(batch, dtype=np.float64)
        if self.noise_scale <= 0:
            return np.ones_like(total)
        gain: NDArray[np.float64] = (self.noise_scale + self.batch) / (self.noise_scale + total)
        return gain

    def goodput(
        self,
        workers: ArrayLike,
        across_nodes: ArrayLike,
        local_batch: ArrayLike | None = None,
        accumulation: int = 0,
    ) -> NDArray[np.float64]:
        """Useful samples per second: (M / step time) x efficiency of M. See :meth:`step_time`."""
        batch = np.asarray(self.local_batch if local_batch is None else local_batch, np.float64)
        total = np.asarray(workers, np.float64) * batch * (accumulation + 1)
        step = self.step_time(workers, across_nodes, local_batch, accumulation)
        useful: NDArray[np.float64] = total / step * self.efficiency(total)
        return useful

    def best_workers(self, most: int, per_node: int, *, least: int = 1) -> int:
        """The number of workers of highest goodput; the smallest of several.

        Parameters
        ----------
        most : int
            Workers available.
        per_node : int
            Workers that one node holds; more are on several nodes.
        least : int, optional
            Fewest workers.
        """
        counts = np.arange(least, most + 1)
        return int(counts[np.argmax(self.goodput(counts, counts > per_node))])

    def efficient_workers(self, most: int, per_node: int, *, share: float = 0.5) -> int:
        """The most workers that each still bring ``share`` of what a single worker brings.

        This is the speed-up efficiency by which Pollux sizes clusters (section 4.2).
        """
        counts = np.arange(1, most + 1)
        speedup = self.goodput(counts, counts > per_node) / self.goodput(1, False)
        good = counts[speedup / counts >= share]
        return int(good[-1]) if len(good) else 1

    def to_record(self, model_milli: tuple[int, ...] = ()) -> NDArray[np.void]:
        """The model as kernels take it: an array of one CURVE_DTYPE record.

        Parameters
        ----------
        model_milli : tuple of int, optional
            Speed of a gradient on GPU models 0 .. 7, thousandths of the measured one; 0: the same.
        """
        if len(model_milli) > CURVE_MODELS:
            raise ConfigurationError(
                f"throughput '{self.name}': 'model_milli' has {len(model_milli)} values; "
                f"a curve knows at most {CURVE_MODELS} GPU models"
            )
        record = np.zeros(1, CURVE_DTYPE)
        for field in CURVE_DTYPE.names or ():
            if field != "model_milli":
                record[field] = getattr(self, field)
        record["model_milli"][0, : len(model_milli)] = model_milli
        return record


def _measured(*values: float | str) -> ThroughputModel:
    name, *constants, batch, noise = values
    grad, each, node, node_each, network, network_each, overlap = map(float, constants)
    first = int(batch)
    return ThroughputModel(
        str(name),
        grad,
        each,
        node,
        node_each,
        network,
        network_each,
        overlap,
        first,
        first,
        float(noise),
    )


APPLICATIONS = MappingProxyType(
    {
        model.name: model
        for model in (
            _measured(
                "bert", 0.22285, 0.058199, 0.15555, 0.065751, 1.3671, 0.011140, 2.1113, 12, 773.63
            ),
            _measured(
                *("cifar10", 0.0080684, 0.00078780, 0.042988, 0.0045355),
                *(0.12967, 0.0026575, 2.8983, 128, 4890.2),
            ),
            _measured(
                "deepspeech2",
                0.0,
                0.033471,
                0.48848,
                0.082785,
                0.89485,
                0.0093664,
                3.2045,
                20,
                21040,
            ),
            _measured(
                *("imagenet", 0.053753, 0.0046211, 0.095014, 0.013538),
                *(0.31394, 0.0065113, 2.9138, 200, 11388),
            ),
            _measured(
                *("ncf", 0.0070554, 9.1690e-07, 0.0026149, 0.0011875),
                *(0.014067, 0.00052710, 1.0, 256, 1.2989e7),
            ),
            _measured(
                "yolov3",
                0.18979,
                0.024663,
                0.050319,
                0.081773,
                0.71686,
                0.010933,
                1.0616,
                8,
                553.96,
            ),
        )
    }
)
"""Six applications on nodes of four T4 GPUs.

Fitted with ``envs.workloads.profiles.fit_throughput`` to the step times that the authors
of Pollux measured (petuum/adaptdl, branch osdi21-artifact, commit c793c70, Apache-2.0); the local
batch is the initial batch size, the noise scale its median there.
"""


GPU_SPEEDS_MILLI = MappingProxyType(
    {
        "A3C": {"k80": 479, "p100": 792, "v100": 1000},
        "CycleGAN": {"k80": 114, "p100": 543, "v100": 1000},
        "LM": {"k80": 254, "p100": 832, "v100": 1000},
        "Recommendation": {"k80": 1398, "p100": 2222, "v100": 1000},
        "ResNet-18": {"k80": 148, "p100": 926, "v100": 1000},
        "ResNet-50": {"k80": 150, "p100": 631, "v100": 1000},
        "Transformer": {"k80": 287, "p100": 741, "v100": 1000},
    }
)
"""Speed of seven models by type of GPU, thousandths of a V100's, at one worker.

Medians over the batch sizes that Gavel measured (Narayanan et al., OSDI 2020;
stanford-futuredata/gavel, commit c4fa400, MIT), see
``envs.workloads.profiles.read_gavel_ratios``. Recommendation is slower on a V100 than on
the older types there.
"""


def application_named(name: str) -> ThroughputModel:
    """Look a measured application up.

    Raises
    ------
    ConfigurationError
        If there is none of that name.
    """
    try:
        return APPLICATIONS[name]
    except KeyError:
        known = ", ".join(APPLICATIONS)
        raise ConfigurationError(f"unknown application '{name}'; measured are {known}") from None


def curve_records(models: tuple[ThroughputModel, ...]) -> NDArray[np.void]:
    """A row's curve table, CURVE_DTYPE [1 + len(models)]: model i is curve i + 1, 0 is unused."""
    return np.concatenate([np.zeros(1, CURVE_DTYPE), *(model.to_record() for model in models)])
