"""Parameters of the GPU-cluster generator, and where their defaults come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.workloads.profiles import PHILLY_TENANTS, TenantProfile
from orchestrator.errors import ConfigurationError
from orchestrator.types import JobPriority

__all__ = ["GpuClusterParameters"]

_DAY_H = 24
_WEEK_DAYS = 7
_DAY_S = 86_400.0


@dataclass(frozen=True)
class GpuClusterParameters:
    """Parameters of the generator, and where their defaults come from.

    Parameters
    ----------
    tenants : tuple of TenantProfile
        Philly (measured). GPU counts that the cluster cannot hold are left out.
    duration_max_days : float
        Longer draws are repeated. Philly: with 30 days the mean GPU time of a job comes out
        within a few per cent of the trace's 69,681 GPU-seconds.
    burst_max : int
        Most jobs of a burst, on Philly's 2,490 GPUs (measured: about 1,000); scaled to the
        cluster, but never below 16.
    gap_median_s, gap_sigma : float
        Log-normal time between jobs of a burst. Philly (measured).
    hours, days : tuple of float
        Relative rate of bursts by hour from midnight (24) and by day from Monday (7). Philly
        (measured, without tenant 11cb48, whose jobs are submitted by a timer).
    activity_cv : float
        Coefficient of variation of a tenant's rate from day to day (gamma, independent), on
        top of hour and weekday. Philly: 0.45 to 1.4 for all tenants but the timer.
    users_per_tenant : int
        Users follow Zipf's law within a tenant. Assumption; Philly's list names no users.
    applications_per_user : int
        Models of a user, equally likely. Assumption.
    priority_shares : tuple of four floats
        Shares of bursts by priority, most important first. Critical: the 1.3 % of pods in the
        two highest classes of service in Alibaba's openb trace (2023); best effort: the 11 %
        of spot jobs in Alibaba's 2026 trace; the split of the rest is an assumption.
    preemptible_shares : tuple of four floats
        Share of bursts that may be preempted, by priority. Assumption: best effort always,
        critical never.
    checkpoint_intervals_s : tuple of float
        Equally likely times between saves. Assumption, around common practice.
    checkpoint_median_s, checkpoint_sigma : float
        Log-normal cost of a planned checkpoint. Assumption.
    restart_median_s, restart_sigma : float
        Log-normal cost of starting again; the median is the 30 s that Pollux (OSDI 2021)
        charges. The spread is an assumption.
    estimate_median, estimate_sigma : float
        The user's estimate is the duration times a log-normal error. Assumption: most users
        ask for more than they need.
    estimate_ladder_s : tuple of float
        Estimates are rounded up to these: users type round numbers (Tsafrir, Etsion and
        Feitelson, JSSPP 2005: twenty values cover about 90 % of jobs). Above the last one,
        and for an empty ladder, they are kept as drawn.
    fractional_share : float
        Share of one-GPU bursts that need a part of a GPU. Philly: none; openb: 0.44.
    gpu_milli : tuple of int
        Those parts. The most frequent ones of openb, by frequency.
    cpu_per_gpu_milli, cpu_shares : tuples
        CPU that comes with a GPU, and how often. The most frequent values of openb.
    memory_per_gpu_mib, memory_shares : tuples
        Host memory that comes with a GPU. Rounded quantiles of openb.
    cpu_cores_per_gpu, memory_gb_per_gpu, gpu_memory_gb : int, float, float
        What the nodes have. openb: 96 cores and 384 GiB are its typical machine, here for 8
        GPUs, with memory raised to 512 GiB.
    """

    tenants: tuple[TenantProfile, ...] = PHILLY_TENANTS
    duration_max_days: float = 30.0
    burst_max: int = 1000
    gap_median_s: float = 6.5
    gap_sigma: float = 1.6
    hours: tuple[float, ...] = (
        *(1.10, 1.05, 1.12, 1.11, 0.97, 1.16, 1.28, 1.37, 1.43, 1.15, 0.93, 0.70),
        *(0.63, 0.67, 0.60, 0.67, 0.87, 0.98, 1.08, 0.89, 0.94, 1.12, 1.08, 1.07),
    )
    days: tuple[float, ...] = (1.07, 1.28, 1.22, 1.23, 1.12, 0.67, 0.42)
    activity_cv: float = 0.8
    users_per_tenant: int = 20
    applications_per_user: int = 4
    priority_shares: tuple[float, float, float, float] = (0.013, 0.20, 0.677, 0.11)
    preemptible_shares: tuple[float, float, float, float] = (0.0, 0.25, 0.75, 1.0)
    checkpoint_intervals_s: tuple[float, ...] = (600.0, 1800.0, 3600.0, 7200.0)
    checkpoint_median_s: float = 20.0
    checkpoint_sigma: float = 0.6
    restart_median_s: float = 30.0
    restart_sigma: float = 0.5
    estimate_median: float = 1.5
    estimate_sigma: float = 0.7
    estimate_ladder_s: tuple[float, ...] = (
        *(300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 10800.0, 14400.0, 21600.0, 28800.0),
        *(43200.0, 64800.0, 86400.0, 129600.0, 172800.0, 259200.0, 432000.0, 604800.0),
        *(1209600.0, 2592000.0),
    )
    fractional_share: float = 0.0
    gpu_milli: tuple[int, ...] = (810, 470, 320, 650, 230, 460)
    cpu_per_gpu_milli: tuple[int, ...] = (11300, 3152, 12000, 9810)
    cpu_shares: tuple[float, ...] = (0.60, 0.19, 0.13, 0.08)
    memory_per_gpu_mib: tuple[int, ...] = (8192, 24576, 49152, 65536)
    memory_shares: tuple[float, ...] = (0.1, 0.2, 0.5, 0.2)
    cpu_cores_per_gpu: int = 12
    memory_gb_per_gpu: float = 64.0
    gpu_memory_gb: float = 80.0

    def __post_init__(self) -> None:
        """Refuse values that describe no distribution, or whose draws would hardly end."""
        if not self.tenants:
            raise ConfigurationError("gpu_cluster: parameter 'tenants' is empty; give at least one")
        limit = np.log(self.duration_max_days * _DAY_S) if self.duration_max_days > 0 else -np.inf
        for tenant in self.tenants:
            if max(tenant.single[0], tenant.multi[0]) > limit:
                raise ConfigurationError(
                    f"gpu_cluster: parameter 'duration_max_days' is {self.duration_max_days}, "
                    f"below the median duration of tenant '{tenant.name}'; raise it"
                )
        for name in ("priority_shares", "preemptible_shares"):
            if len(getattr(self, name)) != len(JobPriority):
                raise ConfigurationError(
                    f"gpu_cluster: parameter '{name}' has {len(getattr(self, name))} values; "
                    f"give one for each of {[p.name for p in JobPriority]}"
                )
        if len(self.hours) != _DAY_H or len(self.days) != _WEEK_DAYS:
            raise ConfigurationError(
                f"gpu_cluster: parameters 'hours' and 'days' have {len(self.hours)} and "
                f"{len(self.days)} values; give {_DAY_H} and {_WEEK_DAYS}"
            )
