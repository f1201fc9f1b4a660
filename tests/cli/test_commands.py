"""Every verb once, for real, on small files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from aps_deploy.files import sha256_of
from tests.cli.conftest import CLASSES, Invoke


@pytest.fixture(scope="module")
def run_folder(images: Path, invoke: Invoke, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, made by the command with the authors' spellings."""
    out_dir = tmp_path_factory.mktemp("runs") / "first"
    result = invoke(
        *("train", "-a", "resnet20_aps", "--filter_size", "2", "--recipe", "fast", "--data", images),
        *("--out-dir", out_dir, "--epochs", "1", "-b", "4", "--seed_num", "3", "--validate_consistency"),
    )
    assert result.exit_code == 0, result.output
    assert str(out_dir) in result.stdout and "test accuracy" in result.stdout
    return out_dir


def test_train_then_predict(run_folder: Path, images: Path, invoke: Invoke) -> None:
    picture = images / "test" / "cat" / "0.png"
    result = invoke("predict", run_folder / "best.safetensors", picture, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["architecture"] == "resnet20_aps2"
    (prediction,) = report["predictions"]
    assert {score["name"] for score in prediction["scores"]} == set(CLASSES)
    assert sum(score["probability"] for score in prediction["scores"]) == pytest.approx(1)


def test_train_writes_what_it_says(run_folder: Path) -> None:
    (line,) = (run_folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["epoch"] == 1
    assert (run_folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_resume_of_a_finished_run_changes_nothing(run_folder: Path, invoke: Invoke) -> None:
    before = sha256_of(run_folder / "best.safetensors")
    result = invoke("train", "--resume", "--out-dir", run_folder)
    assert result.exit_code == 0, result.output
    assert sha256_of(run_folder / "best.safetensors") == before


def test_train_only_evaluates_on_request(run_folder: Path, images: Path, invoke: Invoke) -> None:
    before = sorted(run_folder.iterdir())
    result = invoke("train", "--evaluate", "--weights", run_folder / "best.safetensors", "--data", images)
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.stdout
    assert sorted(run_folder.iterdir()) == before


def test_evaluate_measures_the_checkpoint_and_the_onnx_file_alike(
    invoke: Invoke, checkpoint: Path, onnx_file: Path, images: Path
) -> None:
    arguments = ("--data", images, "--shifts", "3", "--shift-images", "4", "--json")
    results = [invoke("evaluate", model, *arguments) for model in (checkpoint, onnx_file)]
    assert [result.exit_code for result in results] == [0, 0], results[0].output + results[1].output
    first, second = (json.loads(result.stdout) for result in results)
    assert (first["runtime"], second["runtime"]) == ("torch", "onnxruntime")
    for document in (first, second):
        assert document["split"] == "test" and document["num_images"] == 6
        assert document["consistency"]["identical_pairs_percent"] == 100
        assert document["authors"]["consistency_percent"] == 100
    assert first["accuracy_percent"] == second["accuracy_percent"]


def test_evaluate_prints_a_table(invoke: Invoke, checkpoint: Path, images: Path) -> None:
    result = invoke("evaluate", checkpoint, "--data", images, "--images", "3", "--shifts", "none")
    assert result.exit_code == 0, result.output
    rows = result.stdout.splitlines()
    assert [row.split()[0].rstrip(",") for row in rows] == ["model", "images", "accuracy", "consistency"]


def test_import_of_plain_weights(invoke: Invoke, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    import torch

    from aps_deploy.models import load_checkpoint

    source, output, names = tmp_path / "weights.pt", tmp_path / "mine.safetensors", tmp_path / "names.txt"
    model = load_checkpoint(checkpoint)
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, source)
    names.write_text("\n".join(CLASSES) + "\n")
    # Plain keys do not say how the network samples and pads.
    result = invoke(
        *("import", source, "-o", output, "--arch", "resnet20_aps3", "--padding", "circular"), "--class-names", names
    )
    assert result.exit_code == 0, result.output
    assert "resnet20_aps3, circular padding, 3 classes" in result.stdout
    picture = images / "test" / "dog" / "1.png"
    ours, theirs = (invoke("predict", path, picture).stdout for path in (checkpoint, output))
    assert ours == theirs


def test_models_lists_parameters_and_sizes(invoke: Invoke) -> None:
    lines = invoke("models", "resnet20_aps*").stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("resnet20_aps3 ")]
    assert "272,474" in line and "multiples of 4" in line


def test_models_of_no_name(invoke: Invoke) -> None:
    result = invoke("models", "vgg*")
    assert result.exit_code == 2
    assert "vgg*" in result.stderr


def test_export_writes_the_file_and_its_sidecar(onnx_file: Path) -> None:
    sidecar = json.loads(onnx_file.with_suffix(".json").read_text())
    assert sidecar["sha256"] == sha256_of(onnx_file)
    assert sidecar["metadata"]["polyphase"] == "where"


def test_export_in_another_form(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.onnx"
    result = invoke("export", checkpoint, "-o", output, "--polyphase", "custom-op")
    assert result.exit_code == 0, result.output
    assert json.loads(output.with_suffix(".json").read_text())["metadata"]["polyphase"] == "custom-op"


def test_export_in_int8_on_few_images_warns_and_verify_finds_int8(
    invoke: Invoke, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    folder, output = tmp_path / "many", tmp_path / "model.onnx"
    folder.mkdir()
    for number, picture in enumerate(sorted((images / "train").glob("*/*.png")) * 3):
        shutil.copyfile(picture, folder / f"{number}.png")
    result = invoke("export", checkpoint, "-o", output, "--precision", "int8", "--calibration", folder)
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Warning: the int8 ranges come from 36 images, fewer than the 256 advised")
    given = ("--reference", checkpoint, "--data", images / "test", "--images", "2", "--shifts", "1")
    certificate = tmp_path / "out.json"
    result = invoke("verify", output, *given, "--precision", "fp16", "-o", certificate)
    assert result.exit_code == 1
    assert "layers that multiply: 25 in int8, 1 in fp32 (fc/Gemm is the classifier)" in result.stdout
    document = json.loads(certificate.read_text())
    failed = [check["name"] for check in document["checks"] if check["status"] == "failed"]
    assert "other_precision_layers" in failed
    assert document["file"]["precision_found"] == "int8"


def test_predict_says_the_same_from_the_checkpoint_and_from_onnx(
    invoke: Invoke, checkpoint: Path, onnx_file: Path, images: Path
) -> None:
    arguments = (images / "test", "--top-k", "1")
    from_checkpoint, from_onnx = (invoke("predict", path, *arguments) for path in (checkpoint, onnx_file))
    assert from_checkpoint.exit_code == from_onnx.exit_code == 0
    assert from_checkpoint.stdout == from_onnx.stdout
    assert len(from_onnx.stdout.splitlines()) == 2 * 6


def test_predict_from_a_file_of_another_tool(invoke: Invoke, foreign_onnx: Path, images: Path) -> None:
    result = invoke("predict", foreign_onnx, images / "test" / "cat" / "0.png", "--preprocessing", "cifar10")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1 + 3


def test_verify_passes_and_writes_a_certificate(
    invoke: Invoke, onnx_file: Path, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    certificate = tmp_path / "certificate.json"
    result = invoke(
        *("verify", onnx_file, "--reference", checkpoint, "--data", images / "test"),
        *("--shifts", "3", "--images", "4", "-o", certificate),
    )
    assert result.exit_code == 0, result.output
    document = json.loads(certificate.read_text())
    assert document["passed"] and document["file"]["sha256"] == sha256_of(onnx_file)
    assert document["counts"]["images"] == 4 and document["counts"]["shifts"] == 3
    assert "passed" in result.stdout and str(certificate) in result.stdout


def test_verify_fails_with_one_when_a_weight_was_changed(
    invoke: Invoke, onnx_file: Path, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(onnx_file)
    bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [len(CLASSES)])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
    changed, certificate = tmp_path / "changed.onnx", tmp_path / "certificate.json"
    onnx.save(model, changed)
    result = invoke(
        *("verify", changed, "--reference", checkpoint, "--data", images / "test"),
        *("--shifts", "2", "-o", certificate),
    )
    assert result.exit_code == 1, result.output
    assert "FAILED" in result.stdout and "parity" in result.stdout
    assert not json.loads(certificate.read_text())["passed"]


def test_verify_writes_a_report_and_judges_a_certificate_anew(
    invoke: Invoke, onnx_file: Path, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    certificate, report, junit = (tmp_path / name for name in ("c.json", "r.html", "j.xml"))
    gates = tmp_path / "gates.toml"
    gates.write_text("parity_excess = 0\nparity_mean_abs = 0\n")
    result = invoke(
        *("verify", onnx_file, "--reference", checkpoint, "--data", images / "test", "--shifts", "1", "--images", "2"),
        *("-o", certificate, "--report", report, "--junit", junit, "--gates", gates, "--gate", "parity_excess=1"),
    )
    assert result.exit_code == 1, result.output
    document = json.loads(certificate.read_text())
    assert [sentence.split(":")[0] for sentence in document["failed"]] == ["parity_mean_abs"]
    assert document["overrides"] == {"parity_excess": 1.0, "parity_mean_abs": 0.0}
    assert all(str(path) in result.stdout for path in (certificate, report, junit))
    assert "✗" in report.read_text() and 'failures="1"' in junit.read_text()
    before = certificate.read_bytes()
    again = tmp_path / "again.html"
    result = invoke("verify", "--from", certificate, "--gate", "parity_mean_abs=off", "--report", again)
    assert result.exit_code == 0, result.output
    assert "✓" in again.read_text() and "certificate:" not in result.stdout
    assert invoke("verify", "--from", certificate).exit_code == 1
    assert certificate.read_bytes() == before


@pytest.mark.parametrize(("all_verified", "exit_code"), [(True, 0), (False, 1)])
def test_demo_says_where_everything_is(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, all_verified: bool, exit_code: int
) -> None:
    # The demonstration itself takes minutes and has its own tests.
    from aps_deploy.demo import running

    seen: list[running.DemoSettings] = []

    def run_demo(settings: running.DemoSettings, **callbacks: object) -> running.DemoResult:
        seen.append(settings)
        repository = tmp_path / "demo" / "models"
        return running.DemoResult((), all_verified, tmp_path / "map.png", tmp_path / "demo.json", repository, 12.3)

    monkeypatch.setattr(running, "run_demo", run_demo)
    result = invoke("demo", "--out-dir", tmp_path / "demo", "--images", "2", "--epochs", "1")
    assert result.exit_code == exit_code
    assert seen == [running.DemoSettings(tmp_path / "demo", num_shifted=2, fine_tune_epochs=1)]
    assert str(tmp_path / "map.png") in result.stdout and "12 seconds" in result.stdout
    assert f" serve {tmp_path / 'demo' / 'models'}" in result.stdout and "http://127.0.0.1:8000/" in result.stdout
