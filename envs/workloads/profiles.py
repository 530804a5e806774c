"""How the tenants of Microsoft's Philly cluster submit: measured profiles.

Measured on the published trace (Jeon et al., USENIX ATC 2019; msr-fiddle/philly-traces, CC BY 4.0)
from 2017-09-24 on, for the eleven virtual clusters with more than 300 jobs. A burst is jobs of one
virtual cluster, each at most 300 s after the one before; its tail exponent is the one whose mean
burst, cut off at 1,000 jobs, has the measured mean.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PHILLY_TENANTS", "TenantProfile"]


@dataclass(frozen=True)
class TenantProfile:
    """How one tenant submits.

    Parameters
    ----------
    name : str
        Name of the tenant.
    share : float
        Its share of all jobs; the shares of a workload need not sum to 1.
    gpus : tuple of int
        GPU counts that it asks for.
    gpu_shares : tuple of float
        How often, in the same order.
    single : tuple of two floats
        Mean and standard deviation of ln(duration in s) of its one-GPU jobs.
    multi : tuple of two floats
        The same of its larger jobs.
    burst_tail : float
        Tail exponent of the (Pareto) number of jobs of a burst; smaller is burstier.
    alike : float
        Correlation of ln(duration) between jobs of a burst.
    """

    name: str
    share: float
    gpus: tuple[int, ...]
    gpu_shares: tuple[float, ...]
    single: tuple[float, float]
    multi: tuple[float, float]
    burst_tail: float
    alike: float


PHILLY_TENANTS: tuple[TenantProfile, ...] = (
    TenantProfile(
        "6214e9",
        0.464,
        (1, 2, 4, 8),
        (0.9907, 0.0012, 0.0035, 0.0046),
        (7.05, 1.70),
        (7.86, 2.54),
        0.63,
        0.88,
    ),
    TenantProfile(
        "11cb48",
        0.181,
        (1, 2, 4, 8, 16),
        (0.9078, 0.0879, 0.0025, 0.0006, 0.0012),
        (4.78, 1.58),
        (3.31, 1.76),
        2.26,
        0.49,
    ),
    TenantProfile(
        "6c71a0",
        0.112,
        (1, 2, 4, 8, 16),
        (0.9097, 0.0037, 0.0398, 0.0457, 0.0011),
        (7.45, 1.86),
        (7.12, 2.56),
        1.02,
        0.81,
    ),
    TenantProfile(
        "b436b2",
        0.083,
        (1, 2, 4, 8, 16),
        (0.9788, 0.0004, 0.0091, 0.0051, 0.0066),
        (7.22, 0.75),
        (10.31, 2.93),
        0.60,
        0.61,
    ),
    TenantProfile(
        "ee9e8c",
        0.065,
        (1, 2, 4, 8, 16, 32, 64, 128),
        (0.4055, 0.0297, 0.1628, 0.3160, 0.0735, 0.0110, 0.0010, 0.0005),
        (8.08, 3.31),
        (8.98, 2.97),
        1.71,
        0.55,
    ),
    TenantProfile(
        "0e4a51",
        0.030,
        (1, 2, 4, 8),
        (0.6368, 0.1005, 0.2316, 0.0311),
        (7.48, 3.24),
        (10.43, 2.74),
        0.66,
        0.90,
    ),
    TenantProfile(
        "103959",
        0.022,
        (1, 2, 4),
        (0.8122, 0.0171, 0.1707),
        (6.58, 2.23),
        (10.80, 1.57),
        2.09,
        0.87,
    ),
    TenantProfile(
        "7f04ca",
        0.016,
        (1, 2, 4, 8, 16, 32),
        (0.3190, 0.0036, 0.3039, 0.3269, 0.0287, 0.0180),
        (8.80, 2.88),
        (8.92, 3.11),
        1.63,
        0.62,
    ),
    TenantProfile("ed69ec", 0.013, (1,), (1.0,), (8.59, 2.15), (8.59, 2.15), 0.94, 0.92),
    TenantProfile(
        "2869ce",
        0.011,
        (1, 2, 4, 8, 16, 32),
        (0.1356, 0.0223, 0.0304, 0.6994, 0.0030, 0.1093),
        (6.75, 2.51),
        (8.33, 2.85),
        1.91,
        0.73,
    ),
    TenantProfile(
        "e13805",
        0.004,
        (1, 2, 4, 8, 12, 16, 24, 32),
        (0.5726, 0.0081, 0.2742, 0.0968, 0.0188, 0.0108, 0.0108, 0.0081),
        (9.48, 2.22),
        (8.86, 1.97),
        3.53,
        0.43,
    ),
)
"""The virtual clusters of Philly with more than 300 jobs: see the module."""
