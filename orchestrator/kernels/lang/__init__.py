"""What the language lacks: how kernels are compiled, memory, random numbers, logarithms."""
