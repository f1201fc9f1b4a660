"""`python -m aps_deploy.training ...`: the options of `aps-deploy train`, for launchers that start a module."""

from __future__ import annotations

import sys

from aps_deploy.console import new_app
from aps_deploy.training.authors_flags import AuthorsCommand
from aps_deploy.training.command import train

if __name__ == "__main__":
    app = new_app()
    app.command(cls=AuthorsCommand)(train)
    app(["train", *sys.argv[1:]])
