"""The server: what people and programs reach a live orchestrator by."""
