"""These tests need a process of their own, because Triton reads the variable when it is imported.

`tests/plugins/triton/test_interpreted.py` starts it. By hand:

    TRITON_INTERPRET=1 python -m pytest tests/plugins/triton/interpreted
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
