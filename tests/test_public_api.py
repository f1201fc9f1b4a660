"""The public interface: what the README and later versions may rely on."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import aps_deploy
import aps_deploy.export
import aps_deploy.verification

SIGNATURES = {
    "create_model": (["name"], ["num_classes", "criterion", "selection", "pool_only", "padding"]),
    "list_models": (["pattern"], []),
    "load_weights": (["model", "path_or_state_dict"], []),
    "load_checkpoint": (["path_or_name"], []),
    "open_session": (["path"], ["runtime", "device"]),
    "export.export_onnx": (["model", "path"], ["polyphase", "image_size", "precision", "opset", "calibration"]),
    "verification.verify": (["file", "reference", "images", "labels"], ["shifts", "gates", "precision"]),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_only_grow_by_keywords(name: str) -> None:
    function: object = aps_deploy
    for part in name.split("."):
        function = getattr(function, part)
    parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    positional = [key for key, value in parameters.items() if value.kind is value.POSITIONAL_OR_KEYWORD]
    keywords = [key for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY]
    expected_positional, expected_keywords = SIGNATURES[name]
    assert positional == expected_positional
    assert set(expected_keywords) <= set(keywords)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, aps_deploy; print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        _ = aps_deploy.creat_model


def test_from_a_network_to_a_session(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = aps_deploy.create_model("resnet20_aps2", num_classes=4).eval()
    artifact = aps_deploy.export.export_onnx(model, tmp_path / "m.onnx", image_size=16)
    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    with aps_deploy.open_session(artifact.path) as session:
        outputs = session.run(images)
    with torch.inference_mode():
        logits, indices = model.forward_with_selection(torch.from_numpy(images))
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(outputs["polyphase_indices"], indices)
    certificate = aps_deploy.verification.verify(artifact.path, model, images, shifts="group", gates=None)
    assert certificate.passed
