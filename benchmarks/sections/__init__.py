"""The parts of ``python -m benchmarks cpu``. Each is a function from a `Runner` to comparisons, as they come."""
