"""The parts of the demonstration, and (nightly) the whole of it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from aps_deploy.demo import running
from aps_deploy.demo.measuring import Workload, measure, reference_logits
from aps_deploy.demo.picture import save_heat_maps
from aps_deploy.demo.running import DemoSettings, run_demo
from aps_deploy.demo.samples import sample_folder, write_training_tree
from aps_deploy.demo.table import demo_table
from aps_deploy.errors import ApsError, InputError
from aps_deploy.images import find_images, load_folder
from aps_deploy.models import create_model, save_checkpoint
from aps_deploy.preprocessing import CIFAR10
from aps_deploy.runtimes import check_sidecar
from aps_deploy.verification import shift_set


def test_the_package_brings_256_images_of_ten_classes() -> None:
    found = find_images(sample_folder())
    assert len(found) == 256
    assert len({name for _, name in found}) == 10
    data = load_folder(sample_folder(), CIFAR10)
    assert data.images.shape == (256, 3, 32, 32)


def test_training_tree_holds_every_image_once(tmp_path: Path) -> None:
    num_train, num_val = write_training_tree(tmp_path)
    assert num_train + num_val == 256
    assert len(list(tmp_path.glob("train/*/*.jpg"))) == num_train
    assert len(list(tmp_path.glob("val/*/*.jpg"))) == num_val >= 40
    assert {p.name for p in tmp_path.glob("train/*")} == {p.name for p in tmp_path.glob("val/*")}


def test_a_measurement_and_its_table(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "m.safetensors", create_model("resnet20_aps1"), preprocessing=CIFAR10)
    data = load_folder(sample_folder(), CIFAR10, limit=20)
    shifts = shift_set(3, height=32, width=32)
    line = measure(
        path,
        model="resnet20_aps1",
        form="checkpoint",
        runtime="torch",
        workload=Workload(data, data.images[:4], shifts),
        expected=reference_logits(path, data.images),
        verified=True,
    )
    assert line.parity == 0
    assert line.consistency.num_pairs == 12
    assert line.consistency.identical_pairs_percent == 100
    assert 0 <= line.accuracy_percent <= 100
    assert line.latency_ms > 0
    console = Console(width=160)
    with console.capture() as capture:
        console.print(demo_table([line]))
    assert "resnet20_aps1" in capture.get() and "100.00 %" in capture.get()


def test_heat_maps_become_a_picture(tmp_path: Path) -> None:
    shares = np.linspace(0, 1, 32 * 32).reshape(32, 32)
    save_heat_maps(tmp_path / "p.png", {"a": shares, "b": np.zeros((32, 32))}, num_images=8)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size[0] > 800
        # A picture of one colour would show nothing.
        assert len(set(picture.convert("L").tobytes())) > 50


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(InputError, match="was not made by the demonstration"):
        run_demo(DemoSettings(out_dir=tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["keep.txt"]


def test_files_beside_an_earlier_demonstration_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("[]")
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"holds thesis\.tex, which is not the demonstration's"):
        run_demo(DemoSettings(out_dir=tmp_path))
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot replace the current folder"):
        run_demo(DemoSettings(out_dir=Path(".")))


@pytest.mark.parametrize(
    ("images", "epochs", "message"), [(257, 1, "brings 256 images"), (0, 1, "256"), (1, 0, "--epochs 0")]
)
def test_impossible_settings(images: int, epochs: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run_demo(DemoSettings(out_dir=tmp_path / "d", num_shifted=images, fine_tune_epochs=epochs))
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_demonstration_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_steps", lambda *args: ())
    for _ in range(2):
        run_demo(DemoSettings(out_dir=tmp_path / "demo"))
        assert [p.name for p in tmp_path.iterdir()] == ["demo"]
        assert [p.name for p in (tmp_path / "demo").iterdir()] == ["demo.json"]


def test_a_failed_demonstration_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ApsError("no")

    monkeypatch.setattr(running, "_fine_tune", fail)
    with pytest.raises(ApsError):
        run_demo(DemoSettings(out_dir=tmp_path / "demo"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_whole_demonstration_twice(tmp_path: Path) -> None:
    for _ in range(2):
        result = run_demo(DemoSettings(out_dir=tmp_path / "demo", num_shifted=1, fine_tune_epochs=1))
        assert result.all_verified
        lines = json.loads(result.results.read_text())
        assert {line["runtime"] for line in lines} >= {"torch", "onnxruntime", "onnx-reference"}
        for line in lines:
            identical = line["consistency"]["identical_pairs_percent"]
            # A GPU promises no equal bits.
            if line["form"] != "plan":
                assert identical == 100 if line["model"] == "resnet20_aps3" else identical < 100
        if importlib.util.find_spec("tensorrt_rtx") is not None:
            assert check_sidecar(result.results.with_name("resnet20_aps3.plan")) is not None
        assert result.picture.is_file()
        assert sorted(path.name for path in result.repository.iterdir()) == ["resnet20", "resnet20_aps3"]
