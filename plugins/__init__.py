"""Kernels for the operation and their adapters to runtimes."""
