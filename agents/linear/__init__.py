"""CMA-ES over linear policies that are evaluated wholly inside the compiled engine."""
