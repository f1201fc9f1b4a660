"""Timings, each one command: `python -m benchmarks.NAME`. Results are ratios of interleaved runs."""
