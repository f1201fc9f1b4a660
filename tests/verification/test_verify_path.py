from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from aps_deploy.cli import app
from aps_deploy.errors import InputError
from aps_deploy.export import export_checkpoint
from aps_deploy.files import sha256_of
from aps_deploy.images import load_folder
from aps_deploy.models import save_checkpoint
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.verification import Certificate, junit_xml, report_html, verify, verify_path
from aps_deploy.verification.paths import MAX_DEFAULT_IMAGES
from tests.verification.conftest import IMAGE_SIZE, PREPROCESSING, make_network
from tests.verification.document import DOCUMENT


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
    assert by_array.command is None


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


@pytest.mark.parametrize(
    ("name", "place", "message"),
    [
        ("report", "c.json", "must end in .html"),
        ("report", "none/r.html", "does not exist"),
        ("junit", "j.json", "must end in .xml"),
        ("worst_case", "w.npy", "must end in .npz"),
        ("output", "both.html", "its name must end|it is the"),
        ("report", "folder.html", "it is a folder"),
    ],
)
def test_every_output_is_refused_before_anything_is_measured(
    name: str,
    place: str,
    message: str,
    exports: dict[str, Path],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aps_deploy.verification.paths.verify", lambda *_, **__: pytest.fail("measured"))
    (tmp_path / "folder.html").mkdir()
    outputs = {"output": tmp_path / "c.json", name: tmp_path / place}
    if place == "both.html":
        outputs["report"] = outputs["output"]
    with pytest.raises(InputError, match=message) as caught:
        verify_path(exports["where"], exports["checkpoint"], folder, **outputs)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]


@pytest.fixture(scope="module")
def failed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Certificate]:
    """The folder of a strided network that was verified there with every output, and its certificate."""
    root = tmp_path_factory.mktemp("failed")
    names = [f"class {index}" for index in range(7)]
    save_checkpoint(root / "net.safetensors", make_network("resnet20"), preprocessing=PREPROCESSING, class_names=names)
    export_checkpoint(root / "net.safetensors", root / "net.onnx", image_size=IMAGE_SIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        certificate = verify_path(
            "net.onnx", "net.safetensors", folder, num_images=6, shifts=5, seed=2, report="net.html", junit="net.xml",
            precision="fp16",
        )  # fmt: skip
    return root, certificate


def test_a_failure_leaves_its_worst_case_and_what_was_asked_for(failed: tuple[Path, Certificate]) -> None:
    root, certificate = failed
    assert "identical_shifts" in {check.name for check in certificate.failed_checks}
    assert Certificate.from_json(root / "net.certificate.json") == certificate
    case = certificate.details["worst_case"]
    assert case["file"] == {"name": "net.worst-case.npz", "sha256": sha256_of(root / "net.worst-case.npz")}
    assert case["image_file"].startswith("class ") and not case["in_batch"]["bit_identical"]
    assert report_html(certificate) == (root / "net.html").read_text(encoding="utf-8")
    assert junit_xml(certificate) == (root / "net.xml").read_text(encoding="utf-8")
    names = {path.name for path in root.iterdir()}
    assert names == {
        *("net.safetensors", "net.onnx", "net.json"),
        *("net.certificate.json", "net.worst-case.npz", "net.html", "net.xml"),
    }


def test_the_documents_own_lines_repeat_the_worst_case(
    failed: tuple[Path, Certificate], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, certificate = failed
    lines = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert lines is not None and "assert" in lines[1]
    monkeypatch.chdir(root)
    exec(compile(lines[1], "docs/certificate.md", "exec"), {})
    said = capsys.readouterr().out
    assert certificate.file["sha256"] in said
    assert float(said.split()[-1]) == pytest.approx(certificate.details["worst_case"]["max_logit_change"])


def test_its_command_measures_the_same_again(failed: tuple[Path, Certificate], monkeypatch: pytest.MonkeyPatch) -> None:
    root, certificate = failed
    monkeypatch.chdir(root)
    assert certificate.command is not None
    words = [*shlex.split(certificate.command)[1:], "-o", "again.json", "--worst-case", "again.npz"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1, result.output
    again = Certificate.from_json(root / "again.json").to_dict()
    first = certificate.to_dict()
    assert again["details"]["worst_case"].pop("file")["sha256"] == first["details"]["worst_case"].pop("file")["sha256"]
    assert {**again, "created": None} == {**first, "created": None}
    assert again["details"]["precision"]["asked"] == "fp16"
    for name in ("again.json", "again.npz"):
        (root / name).unlink()


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
