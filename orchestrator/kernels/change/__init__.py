"""The only writers of cluster state."""
