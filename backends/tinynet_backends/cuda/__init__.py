"""CUDA: kernels, formulas as kernels, launches, products, graphs and memory. Nothing here imports CuPy."""
