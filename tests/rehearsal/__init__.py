"""A rehearsal of what runs on a CUDA device, on a machine without one: a stand-in for CuPy on the host's memory.

``python -m pytest --rehearse -m gpu`` runs the tests that need a device. The whole CuPy backend runs in them, and
array_api_compat; our kernels are compiled by g++ (`cuda_shim`), and cublasLt is an interpreter (`cublaslt`).
There are two devices. `fake_cuda`, in contrast, is a fake of our own `cuda.runtime`, without CuPy.

What it proves: only functions of CuPy with their own arguments are called; nothing takes an array for NumPy's, or the
other way round; nothing waits for the device in a capture, which ends with all its streams joined; a graph has the bits of
its step as written, reads no memory that was freed, and nothing that nobody wrote; arrays are used on their own device;
memory is accounted for.

What it does not prove: the numbers of cuBLAS and of CuPy's own kernels, which are NumPy's here; speed, as the clock counts
launches; races, as all work is done in the order in which it is queued; what NVRTC and the driver accept.
"""
