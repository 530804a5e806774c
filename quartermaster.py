"""A server's client, under the project's name: ``from quartermaster import Client``."""

from orchestrator.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
