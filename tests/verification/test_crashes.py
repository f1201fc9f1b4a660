"""A file on which ONNX Runtime would end the process is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from aps_deploy.errors import InputError
from aps_deploy.verification import crashes, verify
from aps_deploy.verification.crashes import TrialProcess, refuse_what_crashes
from tests.verification import sabotage

Images = npt.NDArray[np.float32]


def _too_wide(model: onnx.ModelProto) -> None:
    """Claim a kernel wider than its map: found by flipping bits, it aborts ONNX Runtime 1.31 and onnx's checker."""
    (node,) = (node for node in model.graph.node if node.name == "layer3.0.bn1/Conv")
    (shape,) = (attribute for attribute in node.attribute if attribute.name == "kernel_shape")
    shape.ints[1] = 79


def test_a_kernel_wider_than_its_map_is_refused(exports: dict[str, Path], images: Images, tmp_path: Path) -> None:
    file = sabotage.write_sabotaged(exports["where"], tmp_path / "net.onnx", _too_wide)
    # Another build of ONNX Runtime may raise an error instead: what counts is that one sentence comes.
    with pytest.raises(InputError, match=r"net\.onnx") as caught:
        verify(file, exports["checkpoint"], images[:2], shifts=1)
    assert len(str(caught.value).splitlines()) == 1
    # The next file is tried again, by another process.
    refuse_what_crashes(exports["where"])


def test_a_process_that_dies_is_a_crash_and_the_next_one_lives(
    exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = crashes._TRIALS
    monkeypatch.setattr(crashes, "_TRIALS", "import os, sys\nsys.stdin.readline()\nos.abort()")
    trial = TrialProcess()
    assert not trial.survives(exports["where"])
    monkeypatch.setattr(crashes, "_TRIALS", good)
    assert trial.survives(exports["where"])
    assert trial.survives(exports["gather"])
    trial.stop()


def test_an_error_is_no_crash(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"\x08")
    refuse_what_crashes(file)
    refuse_what_crashes(tmp_path / "nowhere.onnx")


def test_other_files_and_runtimes_are_not_tried(exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrialProcess, "survives", lambda *_: False)
    refuse_what_crashes(exports["checkpoint"])
    refuse_what_crashes(exports["where"], "onnx-reference")
    with pytest.raises(InputError, match="is damaged: ONNX Runtime crashes on it; export it again"):
        refuse_what_crashes(exports["where"], "ort")
