"""Where gangs go: what fits where, and what is remembered of it."""
