"""What a session's rows are stepped by, and what their episodes are made from."""
