"""From a file's name to a session: kinds of files, runtimes, sidecars, and what stays unimported."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

import aps_deploy
from aps_deploy import create_model
from aps_deploy.errors import InputError
from aps_deploy.files import sha256_of, write_json
from aps_deploy.models import save_checkpoint
from aps_deploy.preprocessing import CIFAR10
from aps_deploy.runtimes import check_sidecar, file_kind, open_session, opening, read_sidecar, sidecar_path
from tests.runtimes import graphs


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    return graphs.save(graphs.classifier(), tmp_path / "tiny.onnx")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "net.safetensors", create_model("resnet20"), preprocessing=CIFAR10)


def test_defaults_by_the_kind_of_file(onnx_file: Path, checkpoint: Path) -> None:
    for path, runtime in ((onnx_file, "onnxruntime"), (str(onnx_file), "onnxruntime"), (checkpoint, "torch")):
        with aps_deploy.open_session(path) as session:
            assert session.runtime == runtime


def test_models_in_memory() -> None:
    for runtime, name in ((None, "onnxruntime"), ("ort", "onnxruntime"), ("reference", "onnx-reference")):
        with open_session(graphs.classifier(), runtime=runtime) as session:
            assert session.runtime == name
            assert session.metadata == graphs.METADATA
            assert session.run(graphs.images(1))["logits"].shape == (1, 5)
    with open_session(create_model("resnet20"), runtime="pytorch") as session:
        assert session.runtime == "torch"
    with pytest.raises(InputError, match="type dict is no model"):
        open_session({})  # type: ignore[arg-type]


def test_packaged_names_are_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "packaged_models", lambda: {"resnet20_aps3.cifar10": Path("a.safetensors")})
    assert file_kind("resnet20_aps3.cifar10") == "checkpoint"
    with pytest.raises(InputError, match=r"did you mean resnet20_aps3\.cifar10"):
        file_kind("resnet20_aps.cifar10")


@pytest.mark.parametrize("name", ["a.onnx", "A.ONNX", "dots.in.name.onnx"])
def test_onnx_names(name: str) -> None:
    assert file_kind(name) == "onnx"


@pytest.mark.parametrize("name", ["model.plan", "folder/model.engine", "MODEL.PLAN"])
def test_engines_are_plans(name: str) -> None:
    assert file_kind(name) == "plan"
    with pytest.raises(InputError, match="does not exist; give the path of an engine"):
        open_session(name)


@pytest.mark.parametrize("name", ["model", "model.tflite", "model.json"])
def test_other_kinds_list_the_accepted(name: str) -> None:
    with pytest.raises(
        InputError,
        match=r"accepted: a checkpoint \(\.safetensors\).*, an ONNX file \(\.onnx\) or an engine \(\.plan, \.engine\)",
    ):
        open_session(name)


@pytest.mark.parametrize("name", ["weights.pth", "checkpoint.pth.tar", "best.pt"])
def test_pickled_checkpoints_are_sent_to_import(name: str) -> None:
    with pytest.raises(InputError, match=f"aps-deploy import {name}"):
        open_session(name)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for name in ("none.onnx", "none.safetensors", "folder.onnx"):
        with pytest.raises(InputError, match=name):
            open_session(tmp_path / name)
    with pytest.raises(InputError, match="is a folder"):
        open_session(tmp_path)


def test_runtime_must_run_the_kind_of_file(onnx_file: Path, checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"PyTorch does not run .*accepted for ONNX files: onnxruntime"):
        open_session(onnx_file, runtime="torch")
    for runtime in ("onnxruntime", "onnx-reference"):
        with pytest.raises(InputError, match="export the checkpoint first"):
            open_session(checkpoint, runtime=runtime)


def test_missing_package_is_named(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="ONNX Runtime is needed but onnxruntime is not installed; pip install"):
        open_session(onnx_file)


class TestSidecar:
    def test_matching_hash_is_accepted(self, onnx_file: Path) -> None:
        write_json(sidecar_path(onnx_file), {"file": "tiny.onnx", "sha256": sha256_of(onnx_file)})
        assert sidecar_path(onnx_file) == onnx_file.with_name("tiny.json")
        document = check_sidecar(onnx_file)
        assert document is not None and document["file"] == "tiny.onnx"
        open_session(onnx_file).close()

    @pytest.mark.parametrize("runtime", ["onnxruntime", "onnx-reference"])
    def test_changed_file_is_refused(self, onnx_file: Path, runtime: str) -> None:
        write_json(sidecar_path(onnx_file), {"file": "tiny.onnx", "sha256": sha256_of(onnx_file)})
        graphs.save(graphs.classifier(metadata=None), onnx_file)
        with pytest.raises(InputError, match=r"tiny\.onnx changed since it was exported.*tiny\.json"):
            open_session(onnx_file, runtime=runtime)

    def test_file_and_sidecar_renamed_together_are_still_compared(self, onnx_file: Path) -> None:
        moved = onnx_file.with_name("moved.onnx")
        onnx_file.rename(moved)
        write_json(sidecar_path(moved), {"file": "tiny.onnx", "sha256": sha256_of(moved)})
        open_session(moved).close()
        write_json(sidecar_path(moved), {"file": "tiny.onnx", "sha256": "0" * 64})
        with pytest.raises(InputError, match="changed since"):
            open_session(moved)

    def test_sidecar_of_the_engine_is_not_the_onnx_files(self, onnx_file: Path) -> None:
        write_json(sidecar_path(onnx_file), {"file": "tiny.plan", "sha256": "0" * 64})
        open_session(onnx_file).close()

    @pytest.mark.parametrize("document", [{}, [], {"labels": ["a"]}, {"sha256": 3}, "text"], ids=str)
    def test_json_of_another_tool_is_ignored(self, onnx_file: Path, document: object) -> None:
        write_json(sidecar_path(onnx_file), document)
        assert read_sidecar(onnx_file) is None
        open_session(onnx_file).close()

    def test_damaged_sidecar_is_refused(self, onnx_file: Path) -> None:
        sidecar_path(onnx_file).write_text('{"file": "tiny.onnx", "sha')
        with pytest.raises(InputError, match=r"tiny\.json is not a JSON file"):
            open_session(onnx_file)

    def test_no_sidecar_is_needed(self, onnx_file: Path) -> None:
        assert check_sidecar(onnx_file) is None


def loaded_after(code: str, *arguments: str) -> set[str]:
    root = Path(aps_deploy.__file__).resolve().parent.parent
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code) + "\nimport sys\nprint('LOADED', *sys.modules)", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.rsplit("LOADED", 1)[1].split())


def test_predicting_with_onnx_runtime_needs_neither_torch_nor_onnx(onnx_file: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 12), (200, 10, 30)).save(tmp_path / "a.png")
    loaded = loaded_after(
        """
        import sys
        from aps_deploy.predict import predict
        assert predict(sys.argv[1], [sys.argv[2]]).predictions
        """,
        str(onnx_file),
        str(tmp_path / "a.png"),
    )
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "torchvision", "onnx", "safetensors", "matplotlib"}


def test_reference_evaluator_needs_neither_torch_nor_onnx_runtime(onnx_file: Path) -> None:
    loaded = loaded_after(
        """
        import sys
        import numpy as np
        from aps_deploy import open_session
        with open_session(sys.argv[1], runtime="onnx-reference") as session:
            session.run(np.zeros((1, 3, 8, 8), np.float32))
        """,
        str(onnx_file),
    )
    assert "onnx" in loaded
    assert not loaded & {"torch", "torchvision", "onnxruntime", "matplotlib"}
