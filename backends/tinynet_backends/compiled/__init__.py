"""What the numba backend is made of: kernels on addresses, and a program of them that runs without Python."""
