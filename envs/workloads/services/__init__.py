"""Demand of inference services: series of request rates, read or generated."""

from envs.workloads.services.azure import AzureService, read_azure_llm
from envs.workloads.services.generator import ServiceRhythm, generate_services
from envs.workloads.services.series import GapFill, ServiceSeries
from envs.workloads.services.servegen import read_servegen

__all__ = [
    "AzureService",
    "GapFill",
    "ServiceRhythm",
    "ServiceSeries",
    "generate_services",
    "read_azure_llm",
    "read_servegen",
]
