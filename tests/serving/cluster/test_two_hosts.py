"""Two hosts, one of which is killed under load: what was under way there may fail, nothing else does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving.cluster.commands import MISSING, PYTHON, ROOT
from tests.serving.test_http_requests import ONE, document

NAMESPACES = (
    *("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)


def what_is_missing() -> str | None:
    """Return why there can be no two hosts here."""
    if MISSING is not None:
        return MISSING
    for tool in ("unshare", "nsenter", "ip", "curl"):
        if shutil.which(tool) is None:
            return f"two hosts need the command {tool}, which is not here"
    links = ("name bridge type bridge", "name own1 type veth peer name far1")
    tried = [*(f"ip link add {link}" for link in links), "mount -t tmpfs tmpfs /mnt"]
    result = subprocess.run([*NAMESPACES, "sh", "-c", " && ".join(tried)], capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else f"network namespaces are not permitted here: {result.stderr.strip()}"


@pytest.mark.slow
def test_a_host_that_is_killed_under_load(repository: Path, tmp_path: Path) -> None:
    missing = what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    body = tmp_path / "body.json"
    body.write_text(json.dumps(document(ONE)))
    result = subprocess.run(
        [*NAMESPACES, str(PYTHON), "-m", f"{__package__}.two_hosts", str(repository), str(tmp_path), str(body)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:] + "".join(
        path.read_text()[-2000:] for path in tmp_path.glob("*.log")
    )
    seen = json.loads(result.stdout.splitlines()[-1])
    assert seen["second_host_answered_the_same"]
    assert seen["wrong"] == 0 and seen["right"] > 500, seen
    assert seen["answered_by_two"] > 100, seen
    # Eight clients, each with a request under way when the host died, and HAProxy's checks in the seconds after.
    assert all(0 <= after < 15 for after, _ in seen["failures"]), seen
    assert len(seen["failures"]) <= 16, seen
