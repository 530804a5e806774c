"""What the page draws: a cluster as one compact picture, and a stream of what changes in it."""

from orchestrator.server.view.picture import ClusterPicture
from orchestrator.server.view.stream import ViewStream, routes

__all__ = ["ClusterPicture", "ViewStream", "routes"]
