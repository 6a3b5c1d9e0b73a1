"""What it costs: side by side with peers, in one interleaved run. ``python -m benchmarks``."""
