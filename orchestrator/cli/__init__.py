"""The command line ``quartermaster``: a thin client of the server.

It imports the client, errors and typer; what draws tables is loaded when a table is drawn.
"""
