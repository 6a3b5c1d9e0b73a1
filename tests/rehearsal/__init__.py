"""A rehearsal of what runs on a CUDA device, on a machine without one: a stand-in for CuPy on the host's memory.

``python -m pytest --rehearse=0 -m gpu`` runs the tests that need a device. The whole CuPy backend runs in them, and
array_api_compat; our kernels are compiled by g++ (`cuda_shim`), and cublasLt is an interpreter (`cublaslt`).
``--rehearse=1`` makes "cupy" the second of two devices, while the first is the current one.

What it proves: only functions of CuPy with their own arguments are called; nothing takes an array for NumPy's, or the
other way round; nothing waits for the device in a capture; a graph has the bits of its step as written, reads no memory
that was freed, and nothing that nobody wrote; work of two streams is joined; arrays are used on their own device;
memory is accounted for.

What it does not prove: the numbers of cuBLAS and of CuPy's own kernels, which are NumPy's here; speed, as the clock counts
launches; races, as all work is done in the order in which it is queued; what NVRTC and the driver accept.
"""
