"""Images that cannot be read are left out and counted, up to a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aps_deploy.errors import InputError
from aps_deploy.training.image_files import FileImages, open_images
from aps_deploy.training.images import UNREADABLE
from aps_deploy.training.loop import main, run_training, setup
from aps_deploy.training.metrics import read_metrics
from aps_deploy.training.process import Process
from aps_deploy.training.settings import TrainSettings
from tests.training.conftest import Settings, write_class_folders
from tests.training.ranks import run_ranks
from tests.training.test_data import FAST_PREPROCESSING

LARGE: dict[str, Any] = {"arch": "resnet20", "image_size": 100, "workers": 1, "batch_size": 4, "epochs": 2}


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Twelve training and three test images of 100 pixels; two and one of them are cut in half."""
    for name, per_class in (("train", 4), ("test", 1)):
        write_class_folders(tmp_path / "data" / name, per_class=per_class, side=100)
    for name in ("train/blue/000.png", "train/red/002.png", "test/red/000.png"):
        path = tmp_path / "data" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return tmp_path / "data"


def test_a_run_leaves_them_out(damaged: Path, settings: Settings, tmp_path: Path) -> None:
    result = run_training(settings(data=damaged, max_unreadable_images=2, **LARGE))
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [record["train_unreadable"] for record in records] == [2, 2]
    assert [record["validation_unreadable"] for record in records] == [1, 1]
    assert result.test is not None and (result.test.num_images, result.test.num_unreadable) == (2, 1)
    accuracies = {round(10 * record["train_accuracy"], 6) for record in records}
    assert accuracies <= {float(count) for count in range(11)}, "ten images are counted"


def test_more_of_them_stop_the_run_which_goes_on_with_a_higher_limit(
    damaged: Path, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"more than 1 images cannot be read, .* One of them: image .*\.png cannot be"):
        run_training(settings(data=damaged, max_unreadable_images=1, **LARGE))
    resumed = run_training(
        TrainSettings(out_dir=tmp_path / "run", resume=True, max_unreadable_images=2, progress=False)
    )
    assert resumed.epochs == 2 and resumed.metrics["train_unreadable"] == 2
    with pytest.raises(InputError, match=r"^image .*\.png cannot be read"):
        run_training(settings(data=damaged, out_dir=tmp_path / "strict", **LARGE))


def errors_of(process: Process, runs: list[TrainSettings]) -> list[str]:
    """Return what the runs ended with in one of the processes."""
    found = []
    for settings in runs:
        with pytest.raises(InputError) as failure:
            main(*setup(settings, process))
        found.append(str(failure.value))
    return found


@pytest.mark.slow
def test_all_processes_say_which_image_it_was(tmp_path: Path, settings: Settings) -> None:
    """One of two processes meets the image, while training and while validating."""
    runs = []
    for part in ("train", "test"):
        data = tmp_path / part
        for name in ("train", "test"):
            write_class_folders(data / name, per_class=2, side=100)
        (data / part / "red" / "001.png").write_bytes(b"no image")
        runs.append(settings(data=data, out_dir=tmp_path / f"{part}-run", **{**LARGE, "workers": 0, "batch_size": 2}))
    main_process, other = run_ranks(errors_of, tmp_path / "ranks", runs)
    assert main_process == other
    for part, message in zip(("train", "test"), main_process, strict=True):
        assert message.startswith(f"image {tmp_path / part / part / 'red' / '001.png'} cannot be read")


@pytest.mark.parametrize("workers", [0, 2])
def test_what_stands_in_for_them(damaged: Path, workers: int) -> None:
    paths = sorted((damaged / "train").rglob("*.png"))
    images = FileImages(paths, torch.arange(12), FAST_PREPROCESSING, workers=workers)
    found = list(images.batches(list(torch.arange(12).split(3))))
    labels = torch.cat([part for _, part in found])
    broken = [0, 10]
    assert labels.tolist() == [UNREADABLE if number in broken else number for number in range(12)]
    assert torch.equal(found[0][0][0], found[0][0][1]), "batch norms see the pixels of another image"
    assert len(images.unreadable) == 2 and "blue/000.png" in images.unreadable[0]
    assert images.labels.tolist() == list(range(12)), "the labels themselves stay"


def test_images_held_in_memory(damaged: Path) -> None:
    paths = sorted((damaged / "train").rglob("*.png"))
    images = open_images(paths, torch.arange(12), FAST_PREPROCESSING, workers=0, max_unreadable=2)
    assert images.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert images.names(torch.tensor([0, 9])) == [str(paths[1]), str(paths[11])]
    with pytest.raises(InputError, match="more than 1 images cannot be read"):
        open_images(paths, torch.arange(12), FAST_PREPROCESSING, workers=0, max_unreadable=1)
