"""The GPU kernel and its adapters."""
