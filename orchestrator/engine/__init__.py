"""The sans-IO engine: commands and events in, effects out."""
