"""Runs `benchmarks.gpu.report`."""

from benchmarks.gpu.report import main

main()
