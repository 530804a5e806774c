"""What can be asked of a live cluster."""
