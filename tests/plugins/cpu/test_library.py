from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aps_deploy.models import create_model
from aps_deploy.plugins.cpu import building, library
from aps_deploy.plugins.switch import without_kernels


def _in_a_process(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def test_the_switch_turns_them_off() -> None:
    code = "from aps_deploy.plugins.cpu import library as l; print(l.is_used(), l.library_path(), l.why_unavailable())"
    assert _in_a_process(code, APS_DEPLOY_NATIVE="0") == "False None APS_DEPLOY_NATIVE=0 turns them off"
    assert _in_a_process(code).startswith("True ")


def test_a_block_without_them() -> None:
    assert library.is_used()
    with without_kernels():
        assert not library.is_used()
        assert library.library_path() is None
        with without_kernels():
            pass
        assert not library.is_used()
    assert library.is_used()


def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "source_digest", lambda: "0123456789abcdef")
    assert not building.is_current()


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "cannot be run"), ("false", "false failed")])
def test_a_compiler_that_fails_is_said(
    compiler: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(building, "LIBRARY", tmp_path / "libaps_cpu.so")
    with pytest.raises(building.BuildError, match=reason):
        building.build()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["resnet18_aps3", "resnet18_aps1", "resnet20_aps3", "resnet20_aps2"])
def test_networks_answer_alike_with_and_without(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=7).eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        logits, indices = model.forward_with_selection(images)
        moved = model(torch.roll(images, (5, 2), (2, 3)))
        with without_kernels():
            expected_logits, expected_indices = model.forward_with_selection(images)
    assert torch.equal(indices, expected_indices)
    torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(moved, logits)
