"""What a run writes, what it learns, and how it refuses and stops."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from aps_deploy.errors import ApsError, InputError
from aps_deploy.models import create_model, load_checkpoint, save_checkpoint
from aps_deploy.preprocessing import CIFAR10
from aps_deploy.training import step
from aps_deploy.training.curves import save_curves
from aps_deploy.training.data import load_data
from aps_deploy.training.loop import run_training
from aps_deploy.training.metrics import read_metrics
from aps_deploy.training.precision import find_arithmetic, find_device
from aps_deploy.training.process import Process
from aps_deploy.training.recipes import RECIPES
from aps_deploy.training.settings import TrainSettings
from aps_deploy.training.state import load_state
from aps_deploy.training.validate import Validation, validate
from tests.training.conftest import CLASSES, Settings, write_class_folders

FILES = {"settings.json", "metrics.jsonl", "curves.png", "last.pt", "last.safetensors", "best.safetensors"}


def test_a_run_learns_and_leaves_its_files(settings: Settings, tmp_path: Path) -> None:
    result = run_training(
        settings(epochs=4, learning_rate=0.05, validate_consistency=True, crop_padding=2, progress=True)
    )
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == FILES
    records = read_metrics(folder / "metrics.jsonl")
    assert [record["epoch"] for record in records] == [1, 2, 3, 4] and result.metrics == records[-1]
    assert all(record["images_per_second"] > 0 and record["train_seconds"] > 0 for record in records)
    assert all(0 <= record["waiting_share"] < 1 for record in records)
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    assert records[-1]["train_accuracy"] > 0.9, "three colours are easy"
    assert {record["validation_consistency"] for record in records} == {1.0}
    assert result.test is not None and result.test.consistency == 1.0
    model = load_checkpoint(result.checkpoint)
    assert model.class_names == CLASSES and model.preprocessing.image_size == 32
    assert model.arguments["name"] == "resnet20_aps3"
    record = model.checkpoint.training
    assert record["metrics"] == records[-1] and record["settings"]["recipe"] == "fast"
    assert str(tmp_path) not in str(record), "a checkpoint travels without the machine's folders"
    with Image.open(folder / "curves.png") as image:
        assert image.size[0] > 500 and len(image.convert("RGB").getcolors(1 << 24) or []) > 20


def test_the_same_seed_gives_the_same_run(settings: Settings, tmp_path: Path) -> None:
    runs = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        run_training(settings(arch="resnet20", out_dir=tmp_path / name, seed=seed, epochs=1))
        runs[name] = load_state(tmp_path / name / "last.pt")["model"]["conv1.weight"]
    assert torch.equal(runs["first"], runs["again"])
    assert not torch.equal(runs["first"], runs["other"])


def test_best_is_chosen_by_validation_and_never_by_test(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = [0.5, 0.75, 0.75]

    def scripted(values: Sequence[float], folder: str, holdout: int) -> int:
        remaining = [*values, 0.0]
        from aps_deploy.training import loop

        monkeypatch.setattr(loop, "validate", lambda *a, **k: Validation(1.0, remaining.pop(0), None, 1))
        return run_training(
            settings(arch="resnet20", out_dir=tmp_path / folder, epochs=3, max_train_images=8, holdout=holdout)
        ).best_epoch

    assert scripted(accuracies, "held-out", 8) == 2, "the first of equals"
    assert load_checkpoint(tmp_path / "held-out" / "best.safetensors").checkpoint.training["epochs"] == 2
    assert scripted([0.9, 0.1, 0.5], "test-only", 0) == 3, "the last, whatever the test images say"


def test_a_short_run_keeps_an_average_that_follows(settings: Settings, tmp_path: Path) -> None:
    """The weights after the first of six steps have two thousandths in it; nearly all, did the decay not rise."""
    run_training(settings(arch="resnet20", ema_decay=0.9999))
    state = load_state(tmp_path / "run" / "last.pt")
    assert state["average"]["n_averaged"] == 6
    torch.manual_seed(0)
    start = create_model("resnet20", num_classes=3).state_dict()["conv1.weight"]
    end, average = state["model"]["conv1.weight"], state["average"]["module.conv1.weight"]
    assert (average - end).norm() < 0.1 * (end - start).norm()


def test_nan_stops_the_run(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = step.normalise
    count = 0

    def poisoned(*arguments: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return original(*arguments) * (float("nan") if count == 5 else 1)

    monkeypatch.setattr(step, "normalise", poisoned)
    chosen = settings(arch="resnet20", learning_rate=0.1)
    with pytest.raises(ApsError, match=r"loss is nan at step 2 of epoch 2 with learning rate 0\.0\d+, im") as raised:
        run_training(chosen)
    assert raised.value.exit_code == 1
    found = json.loads((tmp_path / "run" / "non-finite-loss.json").read_text())
    order = torch.randperm(48, generator=step.generator_for(0, 1))[16:32]
    paths = [Path(path) for path, _ in ImageFolder(str(chosen.data / "train")).samples]
    assert found["images"] == [str(paths[position]) for position in order.tolist()]
    assert (found["epoch"], found["step"]) == (2, 2) and 0 < found["learning_rate"] <= 0.1
    assert found["images"][3] in str(raised.value) and "and 12 more" in str(raised.value)
    state = load_state(tmp_path / "run" / "last.pt")
    assert state["position"]["epoch"] == 1, "the state from before stays"
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


def test_a_full_disk_leaves_the_state_before_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, count = Path.write_bytes, 0

    def filling(self: Path, data: bytes) -> int:
        nonlocal count
        count += self.suffix == ".pt"
        if count == 3:  # after the initial state and that of the first epoch
            original(self, bytes(data)[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", filling)
        with pytest.raises(ApsError, match=r"last\.pt: the disk is full"):
            run_training(settings(arch="resnet20"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES, "no temporary file is left"
    assert load_state(tmp_path / "run" / "last.pt")["position"]["epoch"] == 1
    resumed = run_training(TrainSettings(out_dir=tmp_path / "run", resume=True))
    whole = run_training(settings(arch="resnet20", out_dir=tmp_path / "whole"))
    assert resumed.epochs == 2 and resumed.test == whole.test
    assert [record["epoch"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 2]


def test_an_unreadable_image_in_the_first_epoch_loses_nothing(settings: Settings, tmp_path: Path) -> None:
    """Large images are decoded while the run goes on; with the file repaired, the run continues as if whole."""
    write_class_folders(tmp_path / "data" / "train", per_class=4, side=100)
    broken = tmp_path / "data" / "train" / "green" / "002.png"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    options = {"arch": "resnet20", "data": tmp_path / "data", "image_size": 100, "workers": 2, "batch_size": 4}
    with pytest.raises(InputError, match=r"^image .*green/002\.png cannot be read .*\.$") as raised:
        run_training(settings(**options))
    assert "\n" not in str(raised.value)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"settings.json", "last.pt"}
    with pytest.raises(InputError, match="add --resume to continue its run"):
        run_training(settings(**options))
    broken.write_bytes(content)
    resumed = run_training(TrainSettings(out_dir=tmp_path / "run", resume=True))
    whole = run_training(settings(**options, out_dir=tmp_path / "whole"))
    assert resumed.epochs == whole.epochs == 2
    states = [load_state(tmp_path / name / "last.pt")["model"] for name in ("run", "whole")]
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


def test_output_folder_in_use(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    keep = tmp_path / "run" / "precious.txt"
    keep.write_text("mine")
    with pytest.raises(InputError, match=r"exists and is not empty; give a new --out-dir"):
        run_training(settings())
    assert keep.read_text() == "mine" and list((tmp_path / "run").iterdir()) == [keep]
    with pytest.raises(InputError, match="is a file"):
        run_training(settings(out_dir=keep))
    with pytest.raises(InputError, match="cannot be created"):
        run_training(settings(out_dir=keep / "inside", arch="resnet20"))
    (tmp_path / "run" / "last.pt").touch()
    with pytest.raises(InputError, match="add --resume"):
        run_training(settings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "resnet20_asp3"}, "resnet20_aps3"),
        ({"image_size": 30}, "resnet20_aps3 does not take 30x30 images: .* multiples of 4 .* next valid size is 32x32"),
        ({"data": "missing"}, "missing does not exist"),
        ({"device": "tpu"}, "--device tpu"),
        ({"precision": "fp16"}, "--precision fp16 needs a CUDA device"),
        ({"weights": "missing.pth"}, r"missing\.pth"),
    ],
)
def test_bad_input_leaves_nothing(changes: dict[str, object], message: str, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run_training(settings(**changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criterion": "l3"}, "l3"),
        ({"selection": "fuzzy"}, "fuzzy"),
        ({"padding": "reflect"}, "reflect"),
        ({"pool_only": True}, "pool_only"),
        ({"weights": "missing.pth"}, r"missing\.pth"),
        ({"weights": "resnet56.safetensors"}, "do not fit resnet20_aps3"),
        ({"weights": "five-classes.safetensors"}, "do not fit resnet20_aps3"),
        ({"image_size": 6}, "resnet20_aps3"),
    ],
)
def test_options_are_refused_before_an_image_is_decoded(
    changes: dict[str, object], message: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, arch, num_classes in (("resnet56", "resnet56", 3), ("five-classes", "resnet20_aps3", 5)):
        if changes.get("weights") == f"{file}.safetensors":
            path = tmp_path / f"{file}.safetensors"
            changes = {"weights": path}
            save_checkpoint(path, create_model(arch, num_classes=num_classes), preprocessing=CIFAR10)
    monkeypatch.setattr("aps_deploy.training.image_files.decode", lambda *_: pytest.fail("an image was decoded"))
    with pytest.raises(InputError, match=message):
        run_training(settings(**changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_stops_the_run(
    loss: float, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aps_deploy.training import loop

    losses = [1.0, loss]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", lambda *a, **k: Validation(losses.pop(0), 0.5, None, 12))
        with pytest.raises(
            ApsError, match=rf"the validation loss is {loss} after epoch 2; the last checkpoint"
        ) as raised:
            run_training(settings(arch="resnet20", max_train_images=16))
    assert raised.value.exit_code == 1
    folder = tmp_path / "run"
    assert load_checkpoint(folder / "last.safetensors").checkpoint.training["epochs"] == 1
    assert load_state(folder / "last.pt")["position"]["epoch"] == 1
    assert [record["epoch"] for record in read_metrics(folder / "metrics.jsonl")] == [1]
    assert run_training(TrainSettings(out_dir=folder, resume=True)).epochs == 2


def test_the_network_that_was_chosen_is_named(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="aps_deploy.training"):
        run_training(settings(arch="resnet18_aps3", recipe="cifar10", epochs=1, max_train_images=2, holdout=2))
    assert "network cifar_resnet18_aps3 with recipe cifar10, on cpu in float32" in caplog.messages


def test_the_authors_way_of_naming(settings: Settings, tmp_path: Path) -> None:
    run_training(settings(arch="resnet20_aps", filter_size=2, epochs=1, criterion="l_infty", max_train_images=8))
    arguments = load_checkpoint(tmp_path / "run" / "best.safetensors").arguments
    assert (arguments["name"], arguments["criterion"]) == ("resnet20_aps2", "linf")


def test_starting_from_weights(settings: Settings, tmp_path: Path) -> None:
    """A learning rate of almost nothing leaves the given weights where they were."""
    torch.manual_seed(3)
    source = create_model("resnet20_aps3", num_classes=3)
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "weights.pth")
    run_training(settings(weights=tmp_path / "weights.pth", epochs=1, learning_rate=1e-12, max_train_images=16))
    trained = load_checkpoint(tmp_path / "run" / "last.safetensors").state_dict()
    assert torch.allclose(trained["conv1.weight"], source.state_dict()["conv1.weight"], atol=1e-7)


def test_a_tree_of_large_images_for_an_imagenet_network(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "data" / "train", per_class=2, side=80)
    write_class_folders(tmp_path / "data" / "val", per_class=1, side=80)
    result = run_training(
        TrainSettings(
            arch="resnet18_aps3",
            data=tmp_path / "data",
            out_dir=tmp_path / "run",
            image_size=128,
            resize=130,
            epochs=1,
            batch_size=4,
            workers=1,
            device="cpu",
        )
    )
    assert result.epochs == 1 and result.test is None and result.metrics["validation_images"] == "validation"
    assert load_checkpoint(result.checkpoint).preprocessing.resize == 130


def test_validation_counts_by_hand(data_folder: Path) -> None:
    data = load_data(data_folder, RECIPES["fast"])
    assert data.test is not None
    torch.manual_seed(0)
    model = create_model("resnet20", num_classes=3)
    inputs = torch.cat([x for x, _ in data.test.batches([torch.arange(12)])]).float() / 255
    shape = (1, 3, 1, 1)
    inputs = (inputs - torch.tensor(RECIPES["fast"].mean).view(shape)) / torch.tensor(RECIPES["fast"].std).view(shape)
    shifts = np.random.RandomState(0)
    with torch.no_grad():
        logits = model.eval()(inputs)
        kept = 0
        for start in (0, 5, 10):
            part = inputs[start : start + 5]
            shift = tuple(shifts.randint(-3, 3, 2).tolist())
            kept += int((model(part.roll(shift, (2, 3))).argmax(1) == logits[start : start + 5].argmax(1)).sum())
    model.train()
    found = validate(model, data.test, data.preprocessing, torch.device("cpu"), batch_size=5, shift_limit=3)
    assert found is not None and model.training
    assert found.num_images == 12 and found.consistency == pytest.approx(kept / 12)
    assert found.accuracy == pytest.approx(float((logits.argmax(1) == data.test.labels).double().mean()))
    assert found.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, data.test.labels)), rel=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_selection_is_exact_under_autocast(training: bool) -> None:
    """Activations in bf16, selection in float32: a shifted image still selects the shifted component."""
    torch.manual_seed(1)
    model = create_model("resnet20_aps3", num_classes=10).train(training)
    images = torch.randn(16, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        _, indices = model.forward_with_selection(images)
        for dy, dx in ((1, 0), (0, 1), (3, 2)):
            _, shifted = model.forward_with_selection(images.roll((dy, dx), (2, 3)))
            rows, columns = indices[:, 0] % 2, indices[:, 0] // 2
            expected = (rows + dy) % 2 + 2 * ((columns + dx) % 2)
            assert torch.equal(shifted[:, 0], expected)


def test_arithmetic_off_is_a_no_op() -> None:
    arithmetic = find_arithmetic("float32", find_device("cpu"))
    with arithmetic.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert not arithmetic.scaler().is_enabled()
    with find_arithmetic("bf16", torch.device("cpu")).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_processes_share_every_index_once() -> None:
    indices = torch.randperm(23)
    shares = [Process(rank, 4).share(indices) for rank in range(4)]
    assert torch.equal(torch.cat(shares).sort().values, torch.arange(23))
    assert Process().is_main and torch.equal(Process().share(indices), indices)


def test_curves_of_nothing(tmp_path: Path) -> None:
    save_curves(tmp_path / "curves.png", [])
    assert not list(tmp_path.iterdir())
