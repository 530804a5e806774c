"""Demand of inference services: series of request rates, read or generated."""

from envs.workloads.services.generator import ServiceRhythm, generate_services
from envs.workloads.services.readers import AzureService, read_azure_llm, read_servegen
from envs.workloads.services.series import GapFill, ServiceSeries

__all__ = [
    "AzureService",
    "GapFill",
    "ServiceRhythm",
    "ServiceSeries",
    "generate_services",
    "read_azure_llm",
    "read_servegen",
]
