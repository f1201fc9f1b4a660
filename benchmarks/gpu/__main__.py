"""Runs `benchmarks.gpu.report`."""

from benchmarks.gpu.report import main
from benchmarks.reporting import run_command

if __name__ == "__main__":
    run_command(main)
