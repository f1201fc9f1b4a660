"""Runs `benchmarks.gpu.report`."""

import sys

from benchmarks.gpu.report import main

if __name__ == "__main__":
    sys.exit(main())
