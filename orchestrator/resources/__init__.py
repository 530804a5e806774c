"""Resources: what nodes offer and jobs ask for, as records; reserving them is in the kernels."""
