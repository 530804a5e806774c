"""The door: one live orchestrator over HTTP, for people and programs."""
