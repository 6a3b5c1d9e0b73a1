"""CUDA kernels: their text, what formulas are made into, and how they are launched. Nothing here imports CuPy."""
