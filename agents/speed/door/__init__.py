"""What people and programs wait for: the command line, and the server."""
