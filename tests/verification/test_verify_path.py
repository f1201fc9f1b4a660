from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from aps_deploy.errors import InputError
from aps_deploy.images import load_folder
from aps_deploy.models import save_checkpoint
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.verification import Certificate, verify, verify_path
from aps_deploy.verification.paths import MAX_DEFAULT_IMAGES
from tests.verification.conftest import PREPROCESSING, make_network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for index in range(7):
        (root / f"class {index}").mkdir()
        for number in range(2):
            pixels = generator.integers(0, 256, (20, 22, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"class {index}" / f"{number}.png")
    return root


def test_a_certificate_is_written_beside_the_file(exports: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(exports["where"].read_bytes())
    certificate = verify_path(file, exports["checkpoint"], folder, shifts=2)
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.counts["images"] == 14
    assert certificate.check("accuracy_drop").status == "passed"
    assert Certificate.from_json(tmp_path / "net.certificate.json") == certificate
    assert certificate.reference["name"] == "net.safetensors"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.certificate.json", "net.onnx"]


def test_it_equals_verify_on_the_loaded_images(exports: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    by_path = verify_path(
        exports["where"], exports["checkpoint"], folder, num_images=5, shifts=2, seed=3, output=tmp_path / "c.json"
    )
    data = load_folder(folder, PREPROCESSING, limit=5, seed=3)
    by_array = verify(exports["where"], exports["checkpoint"], data.images, data.labels, shifts=2, seed=3)
    assert by_path.counts["images"] == 5
    assert by_path.data == by_array.data
    assert by_path.checks == by_array.checks


def test_a_failed_verification_is_written_as_well(exports: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path / "other.safetensors", make_network(seed=1), preprocessing=PREPROCESSING)
    output = tmp_path / "c.json"
    certificate = verify_path(exports["where"], other, folder, num_images=3, shifts=1, output=output)
    assert certificate.exit_code == 1
    assert json.loads(output.read_text())["passed"] is False


def test_the_files_own_preprocessing_is_used(exports: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    other = Preprocessing(16, None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    checkpoint = save_checkpoint(tmp_path / "net.safetensors", make_network(), preprocessing=other)
    of_file = verify_path(exports["where"], checkpoint, folder, num_images=3, shifts=1, output=tmp_path / "a.json")
    expected = load_folder(folder, PREPROCESSING, limit=3, seed=0)
    assert of_file.data["sha256"] == _hash(expected.images)
    foreign = tmp_path / "foreign.onnx"
    model = onnx.load(exports["where"])
    del model.metadata_props[:]
    onnx.save(model, foreign)
    of_reference = verify_path(foreign, checkpoint, folder, num_images=3, shifts=1, output=tmp_path / "b.json")
    assert of_reference.data["sha256"] == _hash(load_folder(folder, other, limit=3, seed=0).images)


def _hash(images: np.ndarray) -> str:
    import hashlib

    return hashlib.sha256(images.tobytes()).hexdigest()


def test_all_images_up_to_a_limit_are_the_default(
    exports: dict[str, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_DEFAULT_IMAGES == 512
    monkeypatch.setattr("aps_deploy.verification.paths.MAX_DEFAULT_IMAGES", 4)
    found = verify_path(exports["where"], exports["checkpoint"], folder, shifts=1, output=tmp_path / "c.json")
    assert found.counts["images"] == 4


def test_an_unwritable_place_is_refused_before_anything_is_measured(
    exports: dict[str, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aps_deploy.verification.paths.verify", lambda *_, **__: pytest.fail("measured"))
    for output in (tmp_path, tmp_path / "none" / "c.json"):
        with pytest.raises(InputError, match="cannot write the certificate"):
            verify_path(exports["where"], exports["checkpoint"], folder, output=output)


@pytest.mark.parametrize(
    "name",
    ["net.onnx", "net.json", "ckpt.safetensors", "link.txt", "hard.txt", "new.onnx", "new.ONNX", "a.safetensors",
     "a.pt", "a.pth", "a.plan"],
)  # fmt: skip
def test_a_certificate_takes_no_models_place(
    name: str, exports: dict[str, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aps_deploy.verification.paths.verify", lambda *_, **__: pytest.fail("measured"))
    sources = {
        "net.onnx": exports["where"],
        "net.json": exports["where"].with_suffix(".json"),
        "ckpt.safetensors": exports["checkpoint"],
    }
    for target, source in sources.items():
        (tmp_path / target).write_bytes(source.read_bytes())
    (tmp_path / "link.txt").symlink_to(tmp_path / "net.onnx")
    (tmp_path / "hard.txt").hardlink_to(tmp_path / "ckpt.safetensors")
    before = sorted(tmp_path.iterdir())
    (tmp_path / "sub").mkdir()
    for output in (tmp_path / name, tmp_path / "sub" / ".." / name):
        with pytest.raises(InputError, match="cannot write the certificate") as caught:
            verify_path(tmp_path / "net.onnx", tmp_path / "ckpt.safetensors", folder, output=output)
        assert caught.value.exit_code == 2
    (tmp_path / "sub").rmdir()
    assert sorted(tmp_path.iterdir()) == before
    for target, source in sources.items():
        assert (tmp_path / target).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("missing", ["file", "reference", "data", "output"])
def test_what_is_missing_is_an_input_error_and_leaves_nothing(
    missing: str, exports: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    paths = {
        "file": exports["where"],
        "reference": exports["checkpoint"],
        "data": folder,
        "output": tmp_path / "c.json",
    }
    paths[missing] = tmp_path / "none" / "there.onnx"
    with pytest.raises(InputError, match="none"):
        verify_path(paths["file"], paths["reference"], paths["data"], num_images=2, shifts=1, output=paths["output"])
    assert list(tmp_path.iterdir()) == []
