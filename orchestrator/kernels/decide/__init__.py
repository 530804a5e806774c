"""What may and what should be done at a decision point."""
