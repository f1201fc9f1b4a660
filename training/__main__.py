"""`python -m aps_deploy.training ...`: the options of `aps-deploy train`, for launchers that start a module."""

from __future__ import annotations

import sys

from aps_deploy.cli import app

if __name__ == "__main__":
    app(["train", *sys.argv[1:]])
