"""What `benchmarks.selection_bandwidth` measures on a CUDA device."""
