"""One exported network through every runtime: they agree, and on what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aps_deploy import create_model
from aps_deploy.errors import InputError
from aps_deploy.export import export_onnx
from aps_deploy.runtimes import ModelMetadata, open_session
from tests.runtimes import graphs

SIZE = 16


def test_runtimes_agree(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model("resnet20_aps3").eval()
    # The form with local functions, the hardest on a runtime; tests/export runs the others.
    path = export_onnx(network, tmp_path / "net.onnx", polyphase="custom-op", image_size=SIZE).path
    images = graphs.images(3, SIZE, SIZE, seed=5)
    with open_session(network, device="cpu") as session:
        reference = session.run(images)
        described = session.metadata
    for runtime in ("onnxruntime", "onnx-reference"):
        with open_session(path, runtime=runtime, device="cpu") as session:
            outputs = session.run(images)
            metadata = session.metadata
            with pytest.raises(InputError, match="17x16; this file takes only 16x16"):
                session.run(graphs.images(1, SIZE + 1, SIZE))
        np.testing.assert_allclose(outputs["logits"], reference["logits"], atol=1e-4, rtol=1e-3, err_msg=runtime)
        np.testing.assert_array_equal(outputs["polyphase_indices"], reference["polyphase_indices"], err_msg=runtime)
        assert metadata.polyphase == "custom-op"
        assert metadata.selection_layers == described.selection_layers == tuple(network.selection_layers)
        assert metadata.arguments == described.arguments
        assert metadata == ModelMetadata.from_onnx(path)
