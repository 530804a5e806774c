"""Short formulas that rank jobs, found by genetic programming."""
