"""Benchmarks side by side: ours, rivals, floor. Run them with ``python -m benchmarks``."""
